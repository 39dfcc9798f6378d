// The HTTP API, described where it is served.

import { make } from "./dom.js";

export const title = "API";

const FIELDS = [
  ["model", "a name of GET /api/models", "the first"],
  ["labels", "a class, a list of classes in turn, or null for all", "null"],
  ["num", "the number of pictures: one of sizes", "16"],
  ["steps", "one of the model's steps", "the model's"],
  ["seed", "a whole number from 0 on", "0"],
  ["guidance", "the guidance scale, 0 to 10", "the model's"],
  ["t_mid", "the second time in radians: one of the model's", "the model's"],
];
const MORE = [
  ["walk: at", "a place on an endless path through noise", "0"],
  ["edit: image", "H x W x C bytes in base64", ""],
  ["edit: start", "the time in radians to which the image is noised", "null"],
  ["edit: known", "H x W bytes in base64, 1 where pixels stay", "null"],
];

export function show(app, stage) {
  const { origin } = location;
  const token = new URLSearchParams(location.search).get("token");
  const bearer = token ? ` \\\n  -H 'Authorization: Bearer ${token}'` : "";
  const curl = (path, body, file) =>
    `curl ${origin}${path}${bearer} \\\n` +
    "  -H 'Content-Type: application/json' \\\n" +
    `  -d '${JSON.stringify(body)}' -o ${file}`;
  const name = app.models[0].name;
  const python = `import io, json, urllib.request
import numpy as np

request = urllib.request.Request(
  "${origin}/api/sample?format=npz",
  json.dumps({"labels": [3], "num": 16, "seed": 7}).encode(),
  {"Content-Type": "application/json"${
    token ? `, "Authorization": "Bearer ${token}"` : ""
  }},
)
answer = urllib.request.urlopen(request).read()
images = np.load(io.BytesIO(answer))["samples"]`;
  stage.replaceChildren(
    make(
      "div",
      { className: "reference" },
      make("h2", {}, "HTTP API"),
      make(
        "p",
        {},
        "This page is a client of it. Requests are JSON. Pictures come back ",
        "as PNG, or as NumPy arrays with ",
        make("code", {}, "?format=npz"),
        ". A request that cannot be answered gets the status 400 and ",
        make("code", {}, '{"error": "one sentence"}'),
        ".",
      ),
      code(curl("/api/sample", { model: name, num: 16, seed: 7 }, "grid.png")),
      code(python),
      make("h3", {}, "What there is"),
      table([
        ["GET /api/models", "the models, and what may be chosen of each"],
        ["POST /api/sample", "pictures from a seed"],
        ["POST /api/walk", "pictures along a path through noise"],
        ["POST /api/edit", "variations of a picture, or a part drawn anew"],
        ["POST /api/python/ACTION", "the Python that draws exactly the same"],
        ["GET /api/status", "how many programs are still to be compiled"],
      ]),
      make("h3", {}, "Fields"),
      table([["Field", "What", "Default"], ...FIELDS, ...MORE], true),
      make("h3", {}, "Models"),
      table(
        app.models.map((model) => [
          model.name,
          `${model.shape.join(" x ")}, ${model.classes || "no"} classes, ` +
            `${model.parameters.toLocaleString("en")} parameters`,
        ]),
      ),
    ),
  );
  return () => {};
}

function code(text) {
  return make("pre", { tabIndex: 0 }, make("code", {}, text));
}

function table(rows, headed = false) {
  const body = rows.map((row, i) =>
    make(
      "tr",
      {},
      row.map((cell, j) => {
        if (headed && i === 0) return make("th", {}, cell);
        return make("td", {}, j === 0 ? make("code", {}, cell) : cell);
      }),
    ),
  );
  return make("table", {}, make("tbody", {}, body));
}
