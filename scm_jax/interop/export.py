"""Writing an export: a folder that other programs' samplers load.

It has the files of `export_folder`, those for diffusers of `export_pytorch`,
and these:

    README.md    the model card      grid.png   samples
    report.json  the scores, if the run was evaluated
    stablehlo/   samplers for jax alone
    onnx/        the 1-step sampler

The folder can be pushed to a model hub as it is. It is written whole or not at
all.
"""

import importlib.resources
import os
import pathlib
import re
from typing import Any

import jinja2

from scm_jax import files, image_grid, networks
from scm_jax.codec import LatentCodec
from scm_jax.errors import ConfigError
from scm_jax.interop import (
  autoencoder,
  export_folder,
  export_onnx,
  export_pytorch,
  stablehlo,
)
from scm_jax.interop.export_folder import Origin, write_json
from scm_jax.interop.export_request import Request
from scm_jax.objectives import OBJECTIVES
from scm_jax.sampler import Sampler

# The files and folders of an export in all formats, and what `scm-jax evaluate`
# writes there.
WRITTEN = {
  *("features", "report.png"),
  *("README.md", "report.json", "grid.png", "config.json", "guide"),
  *("model.safetensors", "stablehlo", "onnx", "vae", "unet"),
  *("model_index.json", "pipeline.py", "scheduler"),
}


def scores(report: Any, origin: Origin, workdir: str) -> dict[str, Any] | None:
  """Returns a report of the folder `workdir` without other weights' scores.

  A report may be of several folders, and of samples that a network guided which
  the export does not have. None if none of the scores are of these weights, or
  it is no report.
  """
  found = report.get("runs") if isinstance(report, dict) else None
  found = found if isinstance(found, list) else []
  found = list(filter(_scored, found))
  folders = {str(r.get("workdir")) for r in found}
  if len(folders) > 1:
    here = files.absolute(workdir)
    found = [r for r in found if files.absolute(str(r.get("workdir"))) == here]
  about = origin.config.get("run"), origin.step, origin.ema
  keys = ("objective", "training_step", "ema")
  own = [
    record
    for record in found
    if tuple(map(record.get, keys)) == about and not record.get("guide")
  ]
  return {**report, "runs": own} if own else None


def _scored(record: Any) -> bool:
  """Returns whether a report's record has Fréchet distances."""
  distances = record.get("fd") if isinstance(record, dict) else None
  if not isinstance(distances, dict):
    return False
  return bool(distances) and all(
    isinstance(value, int | float) for value in distances.values()
  )


def write(
  sampler: Sampler,
  origin: Origin,
  out: str | os.PathLike[str],
  request: Request,
  report: dict[str, Any] | None = None,
) -> pathlib.Path:
  """Writes the folder `out` on this machine's disk, and returns its path.

  An earlier export there is replaced. The sampler is as a workdir or another
  export loads it; `report` is the content of the run's `report.json`, if any.

  Raises:
    ConfigError: the network cannot be written in a format, or `out` holds
      other files than those of an export.
    UserError: the folder cannot be written; an earlier export is still there.
  """
  out = pathlib.Path(out).absolute()  # `.` may be replaced
  _check(sampler, request, out)
  sampler = export_folder.as_computed(sampler, request.dtype)
  if request.dtype:
    network = origin.config.get("network", {}) | {"dtype": request.dtype}
    origin = origin._replace(config=origin.config | {"network": network})
  # The same sampler with its parameters as they are stored, on the host.
  weights = export_folder.cast(sampler.weights, request.dtype or "float32")
  stored = sampler.with_weights(weights)
  formats = request.written
  with files.replaced_folder(out) as folder:
    network = autoencoder.attached(sampler)
    decoder = export_folder.AUTOENCODER if network else ""
    export_folder.write(folder, stored, origin, decoder)
    if network:
      autoencoder.write(folder / decoder, network, sampler.decoder)
    if "stablehlo" in formats:
      _write_stablehlo(folder / "stablehlo", stored, request)
    if {"diffusers", "onnx"} & set(formats) or _is_published(sampler):
      export_pytorch.write_network(folder / "unet", stored)
    if "diffusers" in formats:
      export_pytorch.write_pipeline(folder, stored)
    if "onnx" in formats:
      export_onnx.write(folder, sampler)
    if report:
      write_json(folder / "report.json", report)
    if request.num:
      images = sampler.sample(num=request.num)
      grid = image_grid.image_grid(images, min(10, request.num))
      image_grid.save_png(folder / "grid.png", grid)
    card = _model_card(sampler, origin, request, report)
    (folder / "README.md").write_text(card)
  return out


def _is_published(sampler: Sampler) -> bool:
  """Returns whether the network's form is one of which there is other code."""
  config = sampler.network.config
  return config.published and type(config) in export_pytorch.MODULES


def _write_stablehlo(
  folder: pathlib.Path, sampler: Sampler, request: Request
) -> None:
  folder.mkdir()
  few = (1, 2, 4) if sampler.rules.few_steps else (sampler.steps,)
  steps, descriptions = request.steps or few, []
  for program in stablehlo.programs(sampler, steps, baked=request.bake):
    (folder / program.description["file"]).write_bytes(program.data)
    descriptions.append(program.description)
  write_json(folder / "programs.json", {"programs": descriptions})


def _model_card(
  sampler: Sampler,
  origin: Origin,
  request: Request,
  report: dict[str, Any] | None,
) -> str:
  """Returns the model card, from the template `model_card.md`."""
  file = importlib.resources.files("scm_jax.interop").joinpath("model_card.md")
  environment = jinja2.Environment(
    trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
  )
  network = sampler.network.config
  objective = OBJECTIVES.get(origin.config.get("run", ""))
  classes = network.num_classes
  some = list(range(min(classes, 4)))
  return environment.from_string(file.read_text(encoding="utf-8")).render(
    sampler=sampler,
    network=network,
    family=type(network).__name__,
    origin=origin,
    data=origin.config.get("data", {}),
    description=objective.description if objective else "a network",
    imported=origin.source if "file" in origin.source else {},
    published=_is_published(sampler)
    and not sampler.network.config.added_inputs,
    labels=f"{classes} classes" if classes else "no labels",
    call=f"class_labels={some}" if classes else "batch_size=4",
    autoencoder=autoencoder.attached(sampler),
    encoded=isinstance(sampler.codec, LatentCodec)
    and not autoencoder.attached(sampler),
    request=request,
    formats=request.written,
    report=report,
  )


def _check(sampler: Sampler, request: Request, out: pathlib.Path) -> None:
  """Raises ConfigError for what cannot be written."""
  pytorch = {"diffusers", "onnx"} & set(request.formats)
  if pytorch and not export_pytorch.fits(sampler):
    family = networks.family_name(sampler.network.config)
    raise ConfigError(
      "--formats: diffusers and onnx are there for U-Nets and transformers "
      f"(unet, dit) as {', '.join(export_pytorch.KINDS)} models, and this is "
      f"the network {family} as a {sampler.kind} model; give "
      "safetensors,stablehlo"
    )
  if "onnx" in request.formats and not sampler.rules.few_steps:
    raise ConfigError(
      f"--formats: onnx is the 1-step sampler, and a {sampler.kind} model "
      "takes many steps; leave onnx out"
    )
  if not re.fullmatch(r"[\w.+-]+", request.license):
    raise ConfigError(
      f"--license={request.license}: give a licence's short name, such as mit"
    )
  if out.exists() and not out.is_dir():
    raise ConfigError(f"--out={out} is a file; name a folder")
  used = out.exists() and any(out.iterdir())
  # By its whole path, so that no export of the package is meant by its name.
  if used and export_folder.description(out.absolute()) is None:
    raise ConfigError(
      f"--out={out} has files that are not an export; name a new folder"
    )
  # An earlier export is replaced, and with it all that is in its folder.
  others = {path.name for path in out.iterdir()} - WRITTEN if used else set()
  if others:
    names = ", ".join(sorted(others))
    raise ConfigError(
      f"--out={out} has files that no export writes ({names}); move them "
      "elsewhere, or name a new folder"
    )
