// A canvas to draw on, with a mouse, a finger or the keyboard.

import { make } from "./dom.js";

const STEP = { ArrowLeft: [-1, 0], ArrowRight: [1, 0] };
Object.assign(STEP, { ArrowUp: [0, -1], ArrowDown: [0, 1] });
const ZOOM = 16; // canvas pixels of an image's pixel

export class Brush {
  // shape: [H, W, C] of the images; changed: called after each stroke's part.
  constructor(shape, changed) {
    this.shape = shape;
    this.changed = changed;
    this.way = "strokes"; // or "inpaint"
    this.color = "#ffffff";
    this.size = Math.max(1.5, Math.round(shape[1] / 6) / 2); // pixels
    const [height, width] = shape;
    this.paper = make("canvas", { width, height }); // the image
    this.marks = make("canvas", { width, height }); // what is to draw anew
    const size = { width: ZOOM * width, height: ZOOM * height };
    this.canvas = make("canvas", {
      className: "sketch",
      tabIndex: 0,
      role: "img",
      "aria-label":
        "A canvas to draw on. Arrow keys move the pen, space lowers and " +
        "lifts it.",
      ...size,
    });
    this.pen = null; // where the keyboard's pen is
    this.down = false;
    this.listen();
    this.clear();
  }

  listen() {
    const { canvas } = this;
    canvas.onpointerdown = (event) => {
      canvas.setPointerCapture(event.pointerId);
      this.last = this.place(event);
      this.stroke(this.last, this.last);
    };
    canvas.onpointermove = (event) => {
      if (!canvas.hasPointerCapture(event.pointerId)) return;
      const all = event.getCoalescedEvents?.() ?? [];
      for (const part of all.length ? all : [event]) {
        const place = this.place(part);
        this.stroke(this.last, place);
        this.last = place;
      }
    };
    canvas.onkeydown = (event) => this.key(event);
    canvas.onblur = () => {
      this.pen = null;
      this.show();
    };
  }

  // Where the event is, in pixels of the image. The canvas may be shown at
  // another size, with bars beside it.
  place({ clientX, clientY }) {
    const box = this.canvas.getBoundingClientRect();
    const [height, width] = this.shape;
    const scale = Math.min(box.width / width, box.height / height);
    const left = box.left + (box.width - scale * width) / 2;
    const top = box.top + (box.height - scale * height) / 2;
    return [(clientX - left) / scale, (clientY - top) / scale];
  }

  key(event) {
    const [height, width] = this.shape;
    if (event.key === " ") this.down = !this.down;
    else if (!(event.key in STEP)) return;
    event.preventDefault();
    event.stopPropagation();
    const before = this.pen ?? [width / 2, height / 2];
    const [x, y] = STEP[event.key] ?? [0, 0];
    this.pen = [
      Math.min(width, Math.max(0, before[0] + x)),
      Math.min(height, Math.max(0, before[1] + y)),
    ];
    if (this.down) this.stroke(before, this.pen);
    else this.show();
  }

  stroke(from, to) {
    const target = this.way === "strokes" ? this.paper : this.marks;
    const context = read(target);
    context.strokeStyle = this.way === "strokes" ? this.color : "#fff";
    context.lineWidth = this.size;
    context.lineCap = context.lineJoin = "round";
    context.beginPath();
    context.moveTo(...from);
    context.lineTo(to[0] + 1e-3, to[1]); // a dot is a line, too
    context.stroke();
    this.show();
    this.changed();
  }

  clear() {
    const [height, width] = this.shape;
    const context = read(this.paper);
    context.fillStyle = "#000";
    context.fillRect(0, 0, width, height);
    this.clearMarks();
  }

  clearMarks() {
    const { width, height } = this.marks;
    read(this.marks).clearRect(0, 0, width, height);
    this.show();
  }

  // Takes an image, a canvas of the same size, as the paper.
  take(image) {
    read(this.paper).drawImage(image, 0, 0);
    this.clearMarks();
  }

  show() {
    const { canvas, paper, marks, pen } = this;
    const context = canvas.getContext("2d");
    const size = [canvas.width, canvas.height];
    context.imageSmoothingEnabled = false;
    context.drawImage(paper, 0, 0, ...size);
    if (this.way === "inpaint") {
      const marked = this.bytes(marks, 3);
      context.fillStyle = "#ff4d6dcc";
      marked.forEach((on, i) => {
        const [x, y] = [i % marks.width, Math.floor(i / marks.width)];
        if (on) context.fillRect(ZOOM * x, ZOOM * y, ZOOM, ZOOM);
      });
    }
    if (pen) {
      context.strokeStyle = this.down ? "#ff4d6d" : "#8b86ff";
      context.lineWidth = 4;
      const radius = (ZOOM * this.size) / 2;
      context.beginPath();
      context.arc(ZOOM * pen[0], ZOOM * pen[1], radius, 0, 7);
      context.stroke();
    }
  }

  // Returns one channel of a canvas' pixels.
  bytes(source, channel) {
    const context = read(source);
    const { data } = context.getImageData(0, 0, source.width, source.height);
    return data.filter((_, i) => i % 4 === channel);
  }

  // Returns the image [H, W, C] in base64.
  image() {
    const [height, width, channels] = this.shape;
    const context = read(this.paper);
    const { data } = context.getImageData(0, 0, width, height);
    return encode(data.filter((_, i) => i % 4 < channels));
  }

  // Returns which pixels [H, W] stay as they are, in base64.
  known() {
    return encode(this.bytes(this.marks, 3).map((on) => (on ? 0 : 1)));
  }
}

function read(canvas) {
  return canvas.getContext("2d", { willReadFrequently: true });
}

function encode(bytes) {
  return btoa(Array.from(bytes, (byte) => String.fromCharCode(byte)).join(""));
}
