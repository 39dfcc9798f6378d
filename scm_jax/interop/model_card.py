"""The model card of an export: a README.md that model hubs understand.

The head is YAML, which hubs read (licence, library, tags); the rest is for
people. It says nothing that the export does not hold.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from scm_jax.interop import autoencoder
from scm_jax.interop.export_folder import Origin
from scm_jax.model import Model

PAPER = "https://arxiv.org/abs/2410.11081"
OBJECTIVES = {
  "teacher": "a TrigFlow diffusion model",
  "sct": "a consistency model trained from data (sCT)",
  "scd": "a consistency model distilled from a diffusion teacher (sCD)",
}


def text(
  model: Model,
  origin: Origin,
  name: str,
  license: str,
  formats: Sequence[str],
  report: Mapping[str, Any] | None,
  grid: bool,
  solver_steps: int,
) -> str:
  """The whole card.

  Args:
    model: that is exported.
    origin: its run.
    name: the title.
    license: an identifier as hubs know them, such as `apache-2.0`.
    formats: what is in the folder.
    report: the content of `report.json`, if the run was evaluated.
    grid: whether there is a `grid.png`.
    solver_steps: of a diffusion model's sampler.
  """
  parts = [
    _head(model, license, formats),
    f"# {name}\n",
    _about(model, origin),
    "![samples](grid.png)\n" if grid else "",
    _metrics(report) if report else "",
    _use(model, formats, solver_steps),
  ]
  return "\n".join(filter(None, parts))


def _head(model: Model, license: str, formats: Sequence[str]) -> str:
  kind = "consistency-model" if model.consistency else "diffusion-model"
  tags = ["scm", kind, "trigflow", "image-generation", *formats]
  lines = [f"license: {license}"]
  if "diffusers" in formats:
    lines.append("library_name: diffusers")
  lines += ["pipeline_tag: unconditional-image-generation", "tags:"]
  return "\n".join(["---", *lines, *(f"- {tag}" for tag in tags), "---", ""])


def _about(model: Model, origin: Origin) -> str:
  config, data = model.network.config, origin.config.get("data", {})
  run = origin.config.get("run", "")
  what = OBJECTIVES.get(run, "a network")
  labels = (
    f"{config.num_classes} classes" if config.num_classes else "no labels"
  )
  size = f"{config.resolution}x{config.resolution}x{config.in_channels}"
  lines = [
    f"This is {what} as in [sCM]({PAPER}), with {model.parameters:,} "
    f"parameters, for {data.get('kind', 'images')} of {size} and {labels}.",
  ]
  if model.consistency:
    lines.append("It draws an image in one step, better ones in two or more.")
  else:
    lines.append(
      "It is a diffusion model, which draws with a solver of many steps, not "
      "in one or two."
    )
  if config.guidance:
    lines.append("It takes the guidance scale as an input.")
  rows = [
    ("data", data.get("name") or "not named"),
    ("network", f"{type(config).__name__}, form `{config.form}`"),
    ("computes in", str(config.dtype)),
    ("training step", f"{origin.step:,}"),
    ("weight average", origin.ema),
  ]
  table = ["| | |", "|---|---|", *(f"| {k} | {v} |" for k, v in rows)]
  return "\n".join([*lines, "", *table, ""])


def _metrics(report: Mapping[str, Any]) -> str:
  """Every run of the report; a folder may hold a whole comparison."""
  spaces = list(report["runs"][0]["fd"])
  head = ["run", "steps", "NFE", *(f"FD {space}" for space in spaces), "images"]
  rows = [
    [
      run["name"],
      str(run["steps"]),
      str(run["nfe"]),
      *(f"{run['fd'][space]:.4g}" for space in spaces),
      str(run.get("num", "")),
    ]
    for run in report["runs"]
  ]
  dataset = report.get("reference", {}).get("dataset", "the training data")
  return "\n".join(
    [
      "## Metrics\n",
      f"Fréchet distances (FD) to {dataset}; all of it is in `report.json`.\n",
      *_table(head, rows),
      "",
    ]
  )


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
  line = lambda cells: f"| {' | '.join(cells)} |"
  return [line(head), line(["---"] * len(head)), *map(line, rows)]


def _use(model: Model, formats: Sequence[str], solver_steps: int) -> str:
  classes = model.network.config.num_classes
  steps = 2 if model.consistency else solver_steps
  labels = (
    f"class_labels={list(range(min(classes, 4)))}"
    if classes
    else ("batch_size=4")
  )
  parts = ["## Use\n"]
  if "diffusers" in formats:
    parts.append(
      f"""\
With diffusers, in PyTorch (`PATH` is this folder or this repository):

```python
from diffusers import DiffusionPipeline

pipe = DiffusionPipeline.from_pretrained(
  PATH, custom_pipeline=PATH, trust_remote_code=True
)
images = pipe({labels}, num_inference_steps={steps}).images
```
"""
    )
  if autoencoder.of(model):
    parts.append(
      "`vae/` is the autoencoder that decodes its latents, in diffusers' "
      "layout; it has a licence of its own.\n"
    )
  if "stablehlo" in formats:
    parts.append(
      "With jax alone: `stablehlo/` has samplers for `jax.export.deserialize`, "
      "described in `stablehlo/programs.json`.\n"
    )
  if "onnx" in formats:
    parts.append(
      "With ONNX Runtime: `onnx/sample_1.onnx` takes noise of unit variance, "
      "labels and the guidance scale, and gives images in [-1, 1].\n"
    )
  parts.append(
    f"""\
With scm_jax, this folder is a workdir:

```sh
scm-jax sample --workdir=PATH --steps={steps} --num=100
```
"""
  )
  return "\n".join(parts)
