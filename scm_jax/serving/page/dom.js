// Elements and controls, made of plain functions.

// Returns an element with properties and children.
export function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.includes("-")) element.setAttribute(name, value);
    else element[name] = value;
  }
  element.append(...children.flat().filter(Boolean)); // no null, no false
  return element;
}

export function button(text, onclick, className = "") {
  const click = (event) => {
    // After a click, keys are for the pictures; a keyboard's focus stays.
    if (event.detail) event.currentTarget.blur();
    onclick(event);
  };
  return make("button", { type: "button", className, onclick: click }, text);
}

// Replaces the controls; what has the focus keeps it, by its name.
export function refill(panel, ...children) {
  const name = (item) => item.getAttribute("aria-label") ?? item.textContent;
  const focused = document.activeElement;
  const wanted = panel.contains(focused) ? name(focused) : null;
  panel.replaceChildren(...children);
  if (wanted === null) return;
  const all = [...panel.querySelectorAll("button, input, select")];
  all.find((item) => name(item) === wanted)?.focus();
}

export function slider({ label, min, max, step = 1, value, show, change }) {
  const text = (number) => (show ? show(number) : String(number));
  const output = make("output", {}, text(value));
  const input = make("input", { type: "range", min, max, step });
  input.value = value;
  input.ariaValueText = text(value);
  input.oninput = () => {
    output.value = input.ariaValueText = text(Number(input.value));
    change(Number(input.value));
  };
  input.setAttribute("aria-label", label);
  return make("label", {}, make("span", {}, label, output), input);
}

// A slider over the entries of a list.
export function stops({ label, values, value, show, change }) {
  const text = show ?? String;
  return slider({
    label,
    min: 0,
    max: values.length - 1,
    value: Math.max(0, values.indexOf(value)),
    show: (index) => text(values[index]),
    change: (index) => change(values[index]),
  });
}

// Buttons of which one is pressed. Options are [value, text].
export function choices({ label, options, value, change }) {
  const group = make("div", { className: "choices" });
  for (const [option, text] of options) {
    const item = button(text, () => {
      for (const other of group.children) other.ariaPressed = other === item;
      change(option);
    });
    item.ariaPressed = option === value;
    item.dataset.value = String(option);
    group.append(item);
  }
  return make("fieldset", {}, make("legend", {}, label), group);
}

export function select({ label, options, value, change }) {
  const list = make("select", { "aria-label": label });
  for (const [option, text] of options) {
    list.append(new Option(text, option, false, option === value));
  }
  list.onchange = () => change(list.value);
  return make("label", {}, make("span", {}, label), list);
}

// A list of figures; returns the element and a function that sets them.
export function figures(names) {
  const values = names.map(() => make("dd", {}, "–"));
  const rows = names.map((name, i) =>
    make("div", {}, make("dt", {}, name), values[i]),
  );
  const set = (...texts) => {
    texts.forEach((text, i) => {
      const [number, unit = ""] = String(text).split(" ");
      values[i].replaceChildren(number, make("small", {}, ` ${unit}`));
    });
  };
  return [make("dl", { className: "figures" }, rows), set];
}

export function milliseconds(value) {
  if (value >= 1000) return `${(value / 1000).toFixed(2)} s`;
  return `${value.toFixed(value < 100 ? 1 : 0)} ms`;
}

export function count(value) {
  const digits = value < 10 ? 1 : 0;
  const rounded = Number(value.toFixed(digits));
  return rounded.toLocaleString("en", { useGrouping: true });
}
