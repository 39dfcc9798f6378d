// Several models side by side, from the same noise, with a clock for each.

import * as asking from "./asking.js";
import { button, choices, figures, make, milliseconds, refill, select } from "./dom.js";
import { newCanvas, paint } from "./paint.js";

export const title = "Compare";
const SIZES = [1, 4, 16];

export function show(app, stage, panel) {
  const state = (app.state.compare ??= { num: 4, names: first(app.models) });
  const verdict = make("p", { className: "verdict", role: "status" });
  const cards = make("div", { className: "cards" });
  let clocks = 0; // the animation of running clocks
  let all = [];

  const ask = () => {
    cancelAnimationFrame(clocks);
    verdict.textContent = "";
    const began = performance.now();
    // Those of few steps first: they need not wait for a solver.
    const few = ({ model }) => Number(model.few_steps);
    const order = [...all].sort((a, b) => few(b) - few(a));
    for (const card of order) {
      card.drawn = null;
      card.failed = false;
      card.element.classList.add("running");
      const more = { num: state.num };
      const wanted = asking.fields(app, card.model, more);
      const name = `compare ${card.model.name}`;
      const answer = (drawn) => {
        paint(card.canvas, drawn);
        if (!drawn.newest) return;
        card.drawn = drawn;
        card.element.classList.remove("running");
        card.set(milliseconds(drawn.ms), drawn.evaluations);
        if (all.every((other) => other.drawn)) judge(verdict, all);
      };
      const stop = (reason) => {
        card.failed = true;
        card.element.classList.remove("running");
        app.fail(reason);
      };
      app.connection.ask(name, "sample", wanted, answer, stop);
    }
    const waiting = (card) => !card.drawn && !card.failed;
    const tick = () => {
      for (const card of all) {
        if (!waiting(card)) continue;
        card.set(milliseconds(performance.now() - began), "…");
      }
      if (all.some(waiting)) clocks = requestAnimationFrame(tick);
    };
    tick();
  };

  const build = () => {
    app.connection.forget("compare");
    const chosen = app.models.filter(({ name }) => state.names.includes(name));
    all = chosen.map((model) => newCard(app, model, ask));
    cards.replaceChildren(...all.map((card) => card.element));
    controls();
    ask();
  };

  const toggles = () => {
    const group = make("div", { className: "row" });
    for (const { name } of app.models) {
      const item = button(name, () => {
        const others = state.names.filter((other) => other !== name);
        const names = state.names.includes(name) ? others : [...others, name];
        if (names.length) state.names = names;
        build();
      });
      item.ariaPressed = state.names.includes(name);
      group.append(item);
    }
    return make("fieldset", {}, make("legend", {}, "Models"), group);
  };

  const controls = () => {
    const next = button("New noise for all", () => {
      app.state.seed = Math.floor(1000 * Math.random());
      controls();
      ask();
    }, "main");
    next.dataset.key = " ";
    const labelled = all.find(({ model }) => model.classes)?.model;
    const row = [
      asking.seedControl(app, ask),
      labelled && asking.classControl(app, labelled, ask),
      choices({
        label: "Pictures of each",
        options: SIZES.map((size) => [size, String(size)]),
        value: state.num,
        change: (num) => {
          state.num = num;
          ask();
        },
      }),
    ];
    refill(
      panel,
      next,
      ...row.filter(Boolean),
      ...(app.models.length > 1 ? [toggles()] : []),
      make(
        "p",
        { className: "hint" },
        "All models begin with the same noise. The clocks count the time of " +
          "the device alone.",
      ),
    );
  };

  stage.replaceChildren(cards, verdict);
  build();
  return () => {
    cancelAnimationFrame(clocks);
    app.connection.forget("compare");
  };
}

// A model of each sort, or what there is.
function first(models) {
  const few = models.find((model) => model.few_steps);
  const many = models.find((model) => !model.few_steps);
  const found = [many, few].filter(Boolean);
  return found.map((model) => model.name);
}

function newCard(app, model, ask) {
  const canvas = newCanvas(`Pictures that ${model.name} draws`);
  const [list, set] = figures(["to draw", "evaluations each"]);
  const own = asking.settings(app, model);
  const millions = (model.parameters / 1e6).toFixed(2);
  const steps = select({
    label: `Steps of ${model.name}`,
    options: model.steps.choices.map((n) => [String(n), String(n)]),
    value: String(own.steps),
    change: (text) => {
      own.steps = Number(text);
      ask();
    },
  });
  const name = make("small", {}, `${millions} M parameters`);
  const element = make(
    "article",
    {},
    make("h2", {}, model.name, name),
    make("div", { className: "picture" }, canvas),
    list,
    steps,
  );
  return { model, canvas, set, element, drawn: null };
}

// Says how much faster the fastest model was than the slowest.
function judge(verdict, cards) {
  const sorted = [...cards].sort((a, b) => a.drawn.ms - b.drawn.ms);
  const [fast, slow] = [sorted[0], sorted.at(-1)];
  const ratio = slow.drawn.ms / fast.drawn.ms;
  if (ratio < 1.2) return;
  const times = ratio.toFixed(ratio < 10 ? 1 : 0);
  const same = String(fast.model.shape) === String(slow.model.shape);
  const noise = same ? "from the same noise " : "";
  verdict.textContent =
    `${fast.model.name} drew ${noise}${times} times as fast as ` +
    `${slow.model.name}.`;
}
