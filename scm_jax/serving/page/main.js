// The page: its tabs, its state, its keys.

import * as api from "./api.js";
import * as compare from "./compare.js";
import * as draw from "./draw.js";
import * as sketch from "./sketch.js";
import * as walk from "./walk.js";
import { button } from "./dom.js";
import { Connection, get } from "./net.js";

const MODES = { draw, walk, compare, sketch, api };
const NOTE_MS = 4000;
const $ = (id) => document.getElementById(id);

const waits = {}; // what is awaited, by the reason
function tell(reason, text) {
  waits[reason] = text;
  const line = Object.values(waits).find(Boolean) ?? "";
  $("progress").textContent = line;
  $("progress").hidden = !line;
}

let hiding = 0;
function say(text, isNote) {
  const box = $("message");
  box.textContent = text;
  box.classList.toggle("note", isNote);
  box.hidden = false;
  clearTimeout(hiding);
  hiding = setTimeout(() => (box.hidden = true), NOTE_MS);
}

function theme(dark) {
  document.documentElement.dataset.theme = dark ? "dark" : "light";
}

function startTheme() {
  const system = matchMedia("(prefers-color-scheme: dark)");
  const own = () => localStorage.getItem("theme");
  const apply = () => theme(own() ? own() === "dark" : system.matches);
  system.onchange = apply;
  apply();
  $("theme").onclick = () => {
    const dark = document.documentElement.dataset.theme === "dark";
    localStorage.setItem("theme", dark ? "light" : "dark");
    apply();
  };
}

// Keys of buttons that name one, and digits for classes.
function listen() {
  document.addEventListener("keydown", (event) => {
    const { target, key } = event;
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (target.matches("input, select, textarea")) {
      if (target.type !== "range" || key === " ") return;
    }
    if (key === " " && target.matches("button")) return;
    const wanted = /^[0-9]$/.test(key)
      ? `.choices button[data-value="${key}"]`
      : `button[data-key="${CSS.escape(key)}"]`;
    const found = $("panel").querySelector(wanted);
    if (!found) return;
    event.preventDefault();
    found.click();
  });
}

let leave = () => {};
function open(app, name) {
  leave();
  for (const tab of $("tabs").children) {
    if (tab.dataset.mode === name) tab.setAttribute("aria-current", "page");
    else tab.removeAttribute("aria-current");
  }
  const wide = name === "api";
  document.querySelector("main").classList.toggle("wide", wide);
  $("panel").hidden = wide;
  $("panel").replaceChildren(); // hidden buttons have no keys
  leave = MODES[name].show(app, $("stage"), $("panel"));
}

// Tells of the programs that are compiled before they are asked for.
async function follow() {
  try {
    const { waiting, programs } = await get("api/status");
    const done = `${programs - waiting} of ${programs}`;
    tell("warm", waiting ? `Compiling programs, ${done} …` : "");
    if (!waiting) return;
  } catch {
    // The connection says that the server does not answer.
  }
  setTimeout(follow, 1000);
}

async function start() {
  startTheme();
  const { models, sizes, starts } = await get("api/models");
  const few = models.find((model) => model.few_steps) ?? models[0];
  const app = {
    models,
    sizes,
    starts,
    state: { model: few.name, label: null, seed: 0, num: 16, settings: {} },
    model: () => models.find(({ name }) => name === app.state.model),
    connection: new Connection(tell),
    note: (text) => say(text, true),
    fail: (text) => say(text, false),
    hint: "Keys: space draws new noise, digits choose a class, s saves, c " +
      "copies.",
  };
  for (const [name, { title }] of Object.entries(MODES)) {
    const tab = button(title, (event) => {
      location.hash = name;
      // After a click, space is for the pictures; a keyboard's focus stays.
      if (event.detail) tab.blur();
    });
    tab.dataset.mode = name;
    $("tabs").append(tab);
  }
  const chosen = () => location.hash.slice(1);
  onhashchange = () => open(app, chosen() in MODES ? chosen() : "draw");
  onhashchange();
  listen();
  follow();
}

start().catch((error) => say(error.message, false));
