// A grid of pictures that follows the sliders.

import * as asking from "./asking.js";
import { button, choices, count, figures, make, milliseconds, refill } from "./dom.js";
import { keeping, newCanvas, paint } from "./paint.js";

export const title = "Draw";

export function show(app, stage, panel) {
  const canvas = newCanvas("Pictures that the model draws");
  const [list, set] = figures([
    "to draw",
    "mouse to screen",
    "evaluations each",
    "pictures a second",
  ]);
  const wanted = () => {
    const { num } = app.state;
    return ["sample", asking.fields(app, app.model(), { num })];
  };
  const ask = () => {
    const began = performance.now();
    app.connection.ask("draw", ...wanted(), answer(began), app.fail);
  };
  const answer = (began) => (drawn) => {
    paint(canvas, drawn);
    // The frame after the next one begins when this one is on the screen.
    requestAnimationFrame(() => {
      requestAnimationFrame(() => {
        const waited = performance.now() - began;
        canvas.dataset.screen = waited;
        canvas.dataset.id = drawn.id;
        const rate = (1000 * drawn.shape[0]) / drawn.ms;
        const times = [milliseconds(drawn.ms), milliseconds(waited)];
        set(...times, drawn.evaluations, count(rate));
      });
    });
  };
  stage.replaceChildren(
    make("div", { className: "picture" }, canvas),
    list,
  );
  const controls = () => {
    const model = app.model();
    const next = button(
      "New noise",
      () => {
        app.state.seed = Math.floor(1000 * Math.random());
        controls();
        ask();
      },
      "main",
    );
    next.dataset.key = " ";
    const again = () => {
      controls();
      ask();
    };
    refill(
      panel,
      ...[
        asking.modelControl(app, app.models, again),
        asking.classControl(app, model, ask),
        asking.seedControl(app, ask),
        next,
        ...asking.ownControls(app, model, ask),
        choices({
          label: "Pictures",
          options: app.sizes.map((size) => [size, String(size)]),
          value: app.state.num,
          change: (num) => {
            app.state.num = num;
            ask();
          },
        }),
        keeping(app, canvas, wanted),
        make("p", { className: "hint" }, app.hint),
      ].filter(Boolean),
    );
  };
  controls();
  ask();
  return () => app.connection.forget("draw");
}
