"""The model card of an export: a README.md that model hubs understand.

The head is YAML that hubs read (licence, library, tags); the rest is for
people. Everything that the card says follows from the export's files.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from scm_jax.interop import autoencoder
from scm_jax.interop.export_folder import Origin
from scm_jax.interop.export_request import Request
from scm_jax.objectives import OBJECTIVES
from scm_jax.sampler import Sampler

PAPER = "https://arxiv.org/abs/2410.11081"
_DIFFUSERS = """\
With diffusers, in PyTorch (`PATH` is this folder or this repository):

```python
from diffusers import DiffusionPipeline

pipe = DiffusionPipeline.from_pretrained(
  PATH, custom_pipeline=PATH, trust_remote_code=True
)
images = pipe({labels}, num_inference_steps={steps}).images
```
"""
_AUTOENCODER = """\
`vae/` is the autoencoder that decodes the network's latents, in diffusers'
layout; it has a licence of its own.
"""
_STABLEHLO = """\
With jax alone: `stablehlo/` has samplers for `jax.export.deserialize`, which
`stablehlo/programs.json` describes.
"""
_ONNX = """\
With ONNX Runtime: `onnx/sample_1.onnx` takes noise of unit variance, labels and
the guidance scale, and returns images in [-1, 1], or latents.
"""
_SCM_JAX = """\
With scm_jax, this folder is a workdir:

```sh
scm-jax sample --workdir=PATH --steps={steps} --num=100
```
"""


def text(
  sampler: Sampler,
  origin: Origin,
  request: Request,
  report: Mapping[str, Any] | None = None,
) -> str:
  """Returns the whole card.

  Args:
    sampler: the exported sampler.
    origin: the run that it comes from.
    request: the export's formats, title and licence.
    report: the content of `report.json`, if the run was evaluated.
  """
  parts = [
    _head(sampler, request),
    f"# {request.name}\n",
    _description(sampler, origin),
    "![samples](grid.png)\n" if request.num else "",
    _metrics(report) if report else "",
    _usage(sampler, request.written),
  ]
  return "\n".join(filter(None, parts))


def _head(sampler: Sampler, request: Request) -> str:
  lines = ["---", f"license: {request.license}"]
  if "diffusers" in request.written:
    lines.append("library_name: diffusers")
  lines += ["pipeline_tag: unconditional-image-generation", "tags:"]
  kind = f"{sampler.kind}-model"
  tags = ["scm", kind, "trigflow", "image-generation", *request.written]
  return "\n".join([*lines, *(f"- {tag}" for tag in tags), "---", ""])


def _description(sampler: Sampler, origin: Origin) -> str:
  config, data = sampler.network.config, origin.config.get("data", {})
  objective = OBJECTIVES.get(origin.config.get("run", ""))
  network = objective.description if objective else "a network"
  classes = config.num_classes
  labels = f"{classes} classes" if classes else "no labels"
  size = f"{config.resolution}x{config.resolution}x{config.in_channels}"
  sentences = [
    f"This is {network} as in [sCM]({PAPER}), with {sampler.parameters:,} "
    f"parameters, for {data.get('kind', 'images')} of {size} and {labels}.",
    "It draws an image in one step, and better ones in two or more."
    if sampler.rules.few_steps
    else "It is a diffusion model, which draws an image with a solver of many "
    "steps, not in one or two.",
  ]
  if config.guidance:
    sentences.append("It takes the guidance scale as an input.")
  rows = [
    ["", ""],
    ["---", "---"],
    ["data", data.get("name") or "not named"],
    ["network", f"{type(config).__name__}, form `{config.form}`"],
    ["computes in", str(config.dtype)],
    ["training step", f"{origin.step:,}"],
    ["EMA of the weights", origin.ema],
  ]
  return "\n".join([*sentences, "", *map(_row, rows), ""])


def _metrics(report: Mapping[str, Any]) -> str:
  """Returns the scores of every run of the report."""
  features = list(report["runs"][0]["fd"])
  head = ["run", "steps", "NFE", *(f"FD {name}" for name in features), "images"]
  rows = [
    [
      run["name"],
      str(run["steps"]),
      str(run["nfe"]),
      *(f"{run['fd'][name]:.4g}" for name in features),
      str(run.get("num", "")),
    ]
    for run in report["runs"]
  ]
  dataset = report.get("reference", {}).get("dataset", "the training data")
  table = [head, ["---"] * len(head), *rows]
  return "\n".join(
    [
      "## Metrics\n",
      f"Fréchet distances (FD) to {dataset}; `report.json` has all scores.\n",
      *map(_row, table),
      "",
    ]
  )


def _row(cells: Sequence[str]) -> str:
  return f"| {' | '.join(cells)} |"


def _usage(sampler: Sampler, formats: Sequence[str]) -> str:
  classes, steps = sampler.network.config.num_classes, sampler.steps
  labels = "batch_size=4"
  if classes:
    labels = f"class_labels={list(range(min(classes, 4)))}"
  parts = ["## Use\n"]
  if "diffusers" in formats:
    parts.append(_DIFFUSERS.format(labels=labels, steps=steps))
  if autoencoder.attached(sampler):
    parts.append(_AUTOENCODER)
  if "stablehlo" in formats:
    parts.append(_STABLEHLO)
  if "onnx" in formats:
    parts.append(_ONNX)
  parts.append(_SCM_JAX.format(steps=steps))
  return "\n".join(parts)
