// The controls that choose what is drawn, which several modes have in common.

import { choices, select, slider, stops } from "./dom.js";

// Returns the fields of a request for a model, of what the state says.
export function fields(app, model, more = {}) {
  const { label, seed } = app.state;
  const own = settings(app, model);
  const wanted = { model: model.name, seed, steps: own.steps, ...more };
  if (label !== null && label < model.classes) wanted.labels = [label];
  if (own.steps > 1 && model.t_mid.choices.length) wanted.t_mid = own.t_mid;
  if (model.guidance.refusal === null) wanted.guidance = own.guidance;
  return wanted;
}

// Returns what is chosen of a model alone.
export function settings(app, model) {
  return (app.state.settings[model.name] ??= {
    steps: model.steps.default,
    t_mid: model.t_mid.default,
    guidance: model.guidance.default,
  });
}

export function modelControl(app, models, changed) {
  if (models.length < 2) return null;
  return select({
    label: "Model",
    options: models.map((model) => [model.name, model.name]),
    value: app.state.model,
    change: (name) => {
      app.state.model = name;
      changed();
    },
  });
}

export function classControl(app, model, changed) {
  if (!model.classes) return null;
  const change = (label) => {
    app.state.label = label;
    changed();
  };
  const value = app.state.label < model.classes ? app.state.label : null;
  const options = [[null, "all"]];
  if (model.classes <= 20) {
    for (let k = 0; k < model.classes; k++) options.push([k, String(k)]);
    return choices({ label: "Class", options, value, change });
  }
  const values = [null, ...Array(model.classes).keys()];
  const show = (label) => (label === null ? "all" : String(label));
  return stops({ label: "Class", values, value, show, change });
}

export function seedControl(app, changed) {
  return slider({
    label: "Seed",
    min: 0,
    max: 999,
    value: app.state.seed,
    change: (seed) => {
      app.state.seed = seed;
      changed();
    },
  });
}

// Returns the controls of a model's own settings: steps, times, guidance.
export function ownControls(app, model, changed) {
  const own = settings(app, model);
  const set = (name) => (value) => {
    own[name] = value;
    changed();
  };
  const found = [
    choices({
      label: "Steps",
      options: model.steps.choices.map((n) => [n, String(n)]),
      value: own.steps,
      change: set("steps"),
    }),
  ];
  if (model.t_mid.choices.length) {
    found.push(
      stops({
        label: "Second time (from two steps on)",
        values: model.t_mid.choices,
        value: own.t_mid,
        show: (time) => (time ? `${time.toFixed(2)} rad` : "equal steps"),
        change: set("t_mid"),
      }),
    );
  }
  if (model.guidance.refusal === null) {
    found.push(
      slider({
        label: "Guidance",
        min: 0.5,
        max: 4,
        step: 0.05,
        value: own.guidance,
        show: (scale) => scale.toFixed(2),
        change: set("guidance"),
      }),
    );
  }
  return found;
}
