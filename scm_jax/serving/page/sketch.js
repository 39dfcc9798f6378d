// Strokes become pictures, and parts of a picture are drawn anew.

import * as asking from "./asking.js";
import { button, choices, figures, make, milliseconds, refill } from "./dom.js";
import { slider, stops } from "./dom.js";
import { Brush } from "./brush.js";
import { column, keeping, newCanvas, paint } from "./paint.js";

export const title = "Sketch";
const SIZES = [1, 4, 9, 16];

export function show(app, stage, panel) {
  const models = app.models.filter((model) => model.edits);
  if (!models.length) {
    const why = "None of these models edits images; serve one of few steps.";
    stage.replaceChildren(make("p", { className: "hint" }, why));
    panel.replaceChildren();
    return () => {};
  }
  if (!models.includes(app.model())) app.state.model = models[0].name;
  const state = (app.state.sketch ??= {
    way: "strokes",
    start: nearest(app.starts, 1.2),
    num: 4,
    steps: 2,
  });
  const canvas = newCanvas("What the model makes of it");
  const [list, set] = figures(["to draw", "evaluations each"]);
  let results = null;

  const wanted = () => {
    const { num, steps, way, start } = state;
    const more = { num, steps, image: brush.image() };
    if (way === "strokes") more.start = start;
    else more.known = brush.known();
    const found = asking.fields(app, app.model(), more);
    if (way === "strokes" || steps < 2) delete found.t_mid;
    return ["edit", found];
  };
  const ask = () => {
    const answer = (drawn) => {
      results = drawn;
      paint(canvas, drawn);
      canvas.dataset.id = drawn.id;
      set(milliseconds(drawn.ms), drawn.evaluations);
    };
    app.connection.ask("sketch", ...wanted(), answer, app.fail);
  };
  let brush = null;

  const build = () => {
    const shape = app.model().shape;
    const brushes = (state.brushes ??= {}); // a sheet for each way and shape
    const key = `${state.way} ${shape}`;
    const isNew = !(key in brushes);
    brush = brushes[key] ??= new Brush(shape, ask);
    brush.changed = ask;
    brush.way = state.way;
    const half = (name, content) =>
      make(
        "article",
        {},
        make("h2", {}, name),
        make("div", { className: "picture" }, content),
      );
    const halves = [half("Your hand", brush.canvas), half("The model", canvas)];
    const cards = make("div", { className: "cards hand" }, halves);
    stage.replaceChildren(cards, list);
    controls();
    if (isNew && state.way === "inpaint") sampleInto();
    else ask();
  };

  // Draws a picture to change parts of.
  const sampleInto = () => {
    const request = asking.fields(app, app.model(), { num: 1 });
    const answer = (drawn) => {
      brush.take(column(drawn));
      ask();
    };
    app.connection.ask("sketch paper", "sample", request, answer, app.fail);
  };

  const controls = () => {
    const model = app.model();
    const set = (name, after = ask) => (value) => {
      state[name] = value;
      after();
    };
    const ways = choices({
      label: "What the brush does",
      options: [
        ["strokes", "Strokes"],
        ["inpaint", "Inpaint"],
      ],
      value: state.way,
      change: set("way", build),
    });
    const hint =
      state.way === "strokes"
        ? "Draw with the mouse or a finger. The model makes pictures of it " +
          "while you draw."
        : "Brush over what the model shall draw anew. The rest stays as it is.";
    const far = stops({
      label: "How far from your strokes",
      values: app.starts,
      value: state.start,
      show: (time) => `${time.toFixed(1)} rad`,
      change: set("start"),
    });
    const own = model.steps.choices.map((n) => [n, String(n)]);
    const sizes = SIZES.filter((size) => app.sizes.includes(size));
    refill(
      panel,
      ...[
        make("p", { className: "hint" }, hint),
        ways,
        brushControls(brush, state.way, () => build()),
        make(
          "div",
          { className: "row" },
          button("Clear", () => {
            if (state.way === "strokes") brush.clear();
            else brush.clearMarks();
            ask();
          }),
          button("Take a result", () => {
            if (!results) return;
            brush.take(column({ ...results, shape: first(results.shape) }));
            ask();
          }),
          state.way === "inpaint" && button("New picture", () => {
            app.state.seed = Math.floor(1000 * Math.random());
            controls();
            sampleInto();
          }),
        ),
        asking.modelControl(app, models, build),
        asking.classControl(app, model, ask),
        state.way === "strokes" && far,
        choices({
          label: "Steps",
          options: own,
          value: state.steps,
          change: set("steps"),
        }),
        asking.seedControl(app, ask),
        choices({
          label: "Variations",
          options: sizes.map((size) => [size, String(size)]),
          value: state.num,
          change: set("num"),
        }),
        keeping(app, canvas, wanted),
      ].filter(Boolean),
    );
  };

  build();
  return () => {
    app.connection.forget("sketch");
    app.connection.forget("sketch paper");
  };
}

function brushControls(brush, way, changed) {
  const size = slider({
    label: "Brush",
    min: 1,
    max: Math.ceil(brush.shape[1] / 3),
    step: 0.5,
    value: brush.size,
    show: (pixels) => `${pixels} pixels`,
    change: (pixels) => (brush.size = pixels),
  });
  if (way === "inpaint") return size;
  const colors =
    brush.shape[2] === 1
      ? [
          ["#ffffff", "white"],
          ["#999999", "grey"],
          ["#000000", "black"],
        ]
      : null;
  if (colors) {
    const shade = choices({
      label: "Colour",
      options: colors,
      value: brush.color,
      change: (color) => (brush.color = color),
    });
    return make("div", { className: "tools" }, shade, size);
  }
  const input = make("input", { type: "color", value: brush.color });
  input.oninput = () => (brush.color = input.value);
  const label = make("label", {}, make("span", {}, "Colour"), input);
  return make("div", { className: "tools" }, label, size);
}

function first([, height, width, channels]) {
  return [1, height, width, channels];
}

function nearest(values, wanted) {
  const distance = (value) => Math.abs(value - wanted);
  return [...values].sort((a, b) => distance(a) - distance(b))[0];
}
