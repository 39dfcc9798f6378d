// Pictures: from bytes to a canvas, and from a canvas to a file.

import { button, make } from "./dom.js";
import { post } from "./net.js";

const WIDTH = 960; // pixels of a canvas, about
const GAP = 6;

export function newCanvas(label) {
  const size = { width: WIDTH, height: WIDTH };
  return make("canvas", { role: "img", "aria-label": label, ...size });
}

// Returns a small canvas with images [N, H, W, C] below one another.
export function column({ shape: [num, height, width, channels], pixels }) {
  const data = new ImageData(width, num * height);
  for (let from = 0, to = 0; to < data.data.length; from += channels, to += 4) {
    data.data[to] = pixels[from];
    data.data[to + 1] = pixels[from + (channels > 1 ? 1 : 0)];
    data.data[to + 2] = pixels[from + (channels > 1 ? 2 : 0)];
    data.data[to + 3] = 255;
  }
  const small = make("canvas", { width, height: num * height });
  small.getContext("2d").putImageData(data, 0, 0);
  return small;
}

// Draws images in a grid that is about square.
export function paint(canvas, images) {
  const [num, height, width] = images.shape;
  const columns = Math.ceil(Math.sqrt(num));
  const rows = Math.ceil(num / columns);
  const scale = Math.max(1, Math.floor(WIDTH / (columns * width)));
  const gap = num > 1 ? GAP : 0;
  const [across, down] = [scale * width + gap, scale * height + gap];
  const size = [columns * across - gap, rows * down - gap];
  if (canvas.width !== size[0]) canvas.width = size[0];
  if (canvas.height !== size[1]) canvas.height = size[1];
  const context = canvas.getContext("2d");
  context.imageSmoothingEnabled = false;
  const small = column(images);
  for (let i = 0; i < num; i++) {
    const place = [(i % columns) * across, Math.floor(i / columns) * down];
    const target = [...place, scale * width, scale * height];
    context.drawImage(small, 0, i * height, width, height, ...target);
  }
}

// Buttons that save a canvas and copy the Python that draws the same.
// `wanted()` returns the action and the fields of what is shown.
export function keeping(app, canvas, wanted) {
  const save = button("Save picture", () => {
    canvas.toBlob((blob) => {
      const href = URL.createObjectURL(blob);
      make("a", { href, download: "scm_jax.png" }).click();
      setTimeout(() => URL.revokeObjectURL(href), 1000);
    });
  });
  const copy = button("Copy Python", async () => {
    try {
      const [action, fields] = wanted();
      await copyText(app, await post(`api/python/${action}`, fields));
    } catch (error) {
      app.fail(error.message);
    }
  });
  save.dataset.key = "s";
  copy.dataset.key = "c";
  return make("div", { className: "row" }, save, copy);
}

// Copies a text, or shows it where pages may not copy.
async function copyText(app, text) {
  try {
    await navigator.clipboard.writeText(text);
    app.note("Copied: lines of Python that draw exactly this picture.");
  } catch {
    const close = button("Close", () => dialog.remove(), "main");
    const code = make("pre", {}, text);
    const dialog = make("dialog", {}, code, close);
    document.body.append(dialog);
    dialog.showModal();
  }
}
