// The connection to the server: one socket, views, and the newest answers.

export class Connection {
  constructor(tell) {
    this.tell = tell; // shows or hides a line about what is awaited
    this.views = new Map();
    this.last = 0;
    this.open();
  }

  open() {
    const address = new URL("api/stream", location.href);
    address.protocol = address.protocol === "https:" ? "wss:" : "ws:";
    this.socket = new WebSocket(address);
    this.socket.binaryType = "arraybuffer";
    this.socket.onmessage = (event) => this.receive(event.data);
    this.socket.onopen = () => {
      this.tell("connection", "");
      for (const view of this.views.values()) this.send(view);
    };
    this.socket.onclose = () => {
      get("api/status").catch(({ name, message }) => {
        const none = name === "TypeError"; // no answer at all
        const why = none ? "The server does not answer; trying again …" : message;
        this.tell("connection", why);
      });
      setTimeout(() => this.open(), 1000);
    };
  }

  // Asks for images of a view. What a view asked for before is forgotten.
  ask(name, action, fields, answer, fail) {
    const id = ++this.last;
    const sent = performance.now();
    const before = this.views.get(name);
    // Answers to another action are not for this one.
    const shown = before?.action === action ? before.shown : id - 1;
    const view = { name, id, action, fields, answer, fail, sent, shown };
    this.views.set(name, view);
    this.send(view);
  }

  // Forgets what the views whose names begin so have asked for.
  forget(start) {
    for (const name of [...this.views.keys()]) {
      if (name.startsWith(start)) this.views.delete(name);
    }
    this.tell("compiling", "");
  }

  send({ name, id, action, fields }) {
    if (this.socket.readyState !== WebSocket.OPEN) return;
    this.socket.send(JSON.stringify({ view: name, id, action, ...fields }));
  }

  receive(data) {
    if (typeof data === "string") {
      const note = JSON.parse(data);
      const view = this.views.get(note.view);
      if (!view || view.id !== note.id) return;
      if (note.compiling) {
        this.tell("compiling", "Compiling a program for this choice …");
      } else if (note.error) {
        this.views.delete(note.view);
        this.tell("compiling", "");
        view.fail(note.error);
      }
      return;
    }
    const length = new DataView(data).getUint32(0, true);
    const text = new TextDecoder().decode(new Uint8Array(data, 4, length));
    const head = JSON.parse(text);
    const view = this.views.get(head.view);
    // An older answer is shown, too, unless a newer one was: pictures follow
    // the hand even if the hand is faster.
    if (!view || head.id <= view.shown) return;
    view.shown = head.id;
    const newest = view.id === head.id;
    if (newest) {
      this.views.delete(head.view);
      this.tell("compiling", "");
    }
    const pixels = new Uint8ClampedArray(data, 4 + length);
    const waited = performance.now() - view.sent;
    view.answer({ ...head, pixels, waited, newest });
  }
}

export async function get(path) {
  return read(await fetch(path));
}

export async function post(path, body) {
  const response = await fetch(path, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(body),
  });
  return read(response);
}

async function read(response) {
  const json = response.headers.get("content-type")?.includes("json");
  const content = await (json ? response.json() : response.text());
  if (!response.ok) throw new Error(content.error ?? response.statusText);
  return content;
}
