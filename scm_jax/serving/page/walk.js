// An endless walk through noise, as fast as the server draws.

import * as asking from "./asking.js";
import { button, choices, count, figures, make, milliseconds, refill } from "./dom.js";
import { slider } from "./dom.js";
import { keeping, newCanvas, paint } from "./paint.js";

export const title = "Walk";
const MOST = 16; // pictures that walk at once

export function show(app, stage, panel) {
  const canvas = newCanvas("Pictures along a path through noise");
  const [list, set] = figures([
    "frames a second",
    "pictures a second",
    "to draw",
    "evaluations each",
  ]);
  const state = (app.state.walk ??= { at: 0, speed: 0.5, num: 1 });
  let going = true;
  let before = performance.now();
  let shown = null;
  const frames = [];
  const wanted = () => {
    const { num, at } = state;
    return ["walk", asking.fields(app, app.model(), { num, at })];
  };
  const step = () => {
    const now = performance.now();
    // A long wait is a pause and no leap.
    if (going) state.at += (state.speed * Math.min(now - before, 200)) / 1000;
    before = now;
    const request = wanted();
    const answer = (drawn) => {
      if (going && drawn.newest) whenSeen(step);
      paint(canvas, drawn);
      shown = request;
      tell(drawn);
    };
    app.connection.ask("walk", ...request, answer, (error) => {
      pause();
      app.fail(error);
    });
  };
  const tell = (drawn) => {
    const now = performance.now();
    frames.push(now);
    while (frames[0] < now - 1000) frames.shift();
    const rate = (1000 * (frames.length - 1)) / (now - frames[0] || 1);
    canvas.dataset.rate = rate;
    const pictures = rate * drawn.shape[0];
    const time = milliseconds(drawn.ms);
    set(count(rate), count(pictures), time, drawn.evaluations);
  };
  const toggle = button("Pause", () => (going ? pause() : start()), "main");
  toggle.dataset.key = " ";
  const pause = () => {
    going = false;
    toggle.textContent = "Go on";
  };
  const start = () => {
    going = true;
    before = performance.now();
    toggle.textContent = "Pause";
    step();
  };
  const changed = () => going || step();
  stage.replaceChildren(make("div", { className: "picture" }, canvas), list);
  const controls = () => {
    const model = app.model();
    const again = () => {
      controls();
      changed();
    };
    refill(
      panel,
      ...[
        toggle,
        asking.modelControl(app, app.models, again),
        asking.classControl(app, model, changed),
        slider({
          label: "Speed",
          min: 0.05,
          max: 2,
          step: 0.05,
          value: state.speed,
          show: (speed) => speed.toFixed(2),
          change: (speed) => (state.speed = speed),
        }),
        asking.seedControl(app, changed),
        ...asking.ownControls(app, model, changed),
        choices({
          label: "Pictures",
          options: app.sizes.filter((n) => n <= MOST).map((n) => [n, `${n}`]),
          value: state.num,
          change: (num) => {
            state.num = num;
            changed();
          },
        }),
        keeping(app, canvas, () => shown ?? wanted()),
      ].filter(Boolean),
    );
  };
  controls();
  step();
  return () => {
    going = false;
    app.connection.forget("walk");
  };
}

// Calls a function now, or once the page is seen again.
function whenSeen(call) {
  if (!document.hidden) call();
  else document.addEventListener("visibilitychange", call, { once: true });
}
