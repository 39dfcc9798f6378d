"""Writes an export: a folder that others' samplers load, whole or not at all.

    README.md          the model card      grid.png   samples
    config.json        what the network is, how to sample, how it was trained
    model.safetensors  the parameters, by our names
    vae/               of a model of latents, the autoencoder if it has one
    report.json        how it scores, where the run was evaluated
    stablehlo/         samplers for jax alone
    unet/ ...          what diffusers loads (see `export_pytorch`)
    onnx/              the 1-step sampler

Laid out to be pushed to a model hub as it is.
"""

import dataclasses
import json
import os
import pathlib
from typing import Any

import numpy as np

from scm_jax import files, image_grid
from scm_jax.errors import ConfigError
from scm_jax.interop import (
  autoencoder,
  export_folder,
  export_pytorch,
  model_card,
  stablehlo,
)
from scm_jax.interop.export_folder import Origin
from scm_jax.model import Model

FORMATS = ("safetensors", "stablehlo", "diffusers", "onnx")


@dataclasses.dataclass(frozen=True)
class Request:
  """What to write.

  Attributes:
    formats: of `FORMATS`; `safetensors` is always written.
    dtype: float32, bfloat16 or float16, in which parameters are stored and the
      network computes; "" stores float32 and computes as in training.
    steps: of the StableHLO samplers; empty takes 1, 2 and 4, or the teacher's.
    bake: whether StableHLO programs hold the parameters.
    license: the model card's licence field.
    name: the model's, for its card.
    num: samples in the grid; 0 for none.
    solver_steps: of a diffusion model's sampler.
  """

  formats: tuple[str, ...] = ("safetensors", "stablehlo", "diffusers")
  dtype: str = ""
  steps: tuple[int, ...] = ()
  bake: bool = False
  license: str = "unknown"
  name: str = "scm"
  num: int = 40
  solver_steps: int = 32


def write(
  model: Model,
  origin: Origin,
  out: str | os.PathLike[str],
  request: Request,
  report: dict[str, Any] | None = None,
) -> pathlib.Path:
  """Writes the folder `out`; an earlier export there is replaced.

  Args:
    model: of a workdir or of another export.
    origin: where it comes from.
    out: on this machine's disk.
    request: what to write.
    report: the content of the run's `report.json`, if it has one.

  Raises:
    ConfigError: the model has no such format, or `out` is something else.
    UserError: it cannot be written; what was there before is still there.
  """
  check(model, request)
  model = export_folder.as_computed(model, request.dtype)
  origin = _retyped(origin, request.dtype)
  weights = export_folder.cast(model.weights, request.dtype or "float32")
  _check_replaceable(pathlib.Path(out))
  with files.replaced_folder(out) as folder:
    _write_weights(folder, model, origin, weights)
    if "stablehlo" in request.formats:
      _write_stablehlo(folder, model, weights, request)
    published = model.network.config.form == "edm2"
    if {"diffusers", "onnx"} & set(request.formats) or published:
      export_pytorch.write_unet(folder / "unet", model, weights)
    if "diffusers" in request.formats:
      export_pytorch.write_pipeline(
        folder, model, weights, request.solver_steps
      )
    if "onnx" in request.formats:
      from scm_jax.interop import export_onnx  # needs torch

      export_onnx.write(folder, model)
    if report:
      (folder / "report.json").write_text(json.dumps(report, indent=2) + "\n")
    if request.num:
      image_grid.save_png(folder / "grid.png", _grid(model, request))
    card = model_card.text(
      *(model, origin, request.name, request.license, _formats(request)),
      *(report, request.num > 0, request.solver_steps),
    )
    (folder / "README.md").write_text(card)
  return pathlib.Path(out)


def _formats(request: Request) -> tuple[str, ...]:
  return tuple(f for f in FORMATS if f == "safetensors" or f in request.formats)


def check(model: Model, request: Request) -> None:
  """Raises ConfigError for a format that this model does not have."""
  if {"diffusers", "onnx"} & set(request.formats):
    export_pytorch.check(model)
  if "onnx" in request.formats and not model.consistency:
    raise ConfigError(
      "--formats: onnx is the 1-step sampler, and a diffusion teacher takes "
      "many; leave onnx out"
    )


def _retyped(origin: Origin, dtype: str) -> Origin:
  """The run's config with the type in which the network computes from now."""
  if not dtype:
    return origin
  network = origin.config.get("network", {}) | {"dtype": dtype}
  return origin._replace(config=origin.config | {"network": network})


def _write_weights(
  folder: pathlib.Path, model: Model, origin: Origin, weights: Any
) -> None:
  export_folder.write(folder, model, origin, weights)
  if network := autoencoder.of(model):
    path = folder / export_folder.AUTOENCODER
    autoencoder.write(path, network, model.decoder)


def _write_stablehlo(
  folder: pathlib.Path, model: Model, weights: Any, request: Request
) -> None:
  (folder / "stablehlo").mkdir()
  steps = request.steps
  if not steps:
    steps = (1, 2, 4) if model.consistency else (request.solver_steps,)
  about = []
  for program in stablehlo.programs(model, weights, steps, baked=request.bake):
    (folder / "stablehlo" / program.about["file"]).write_bytes(program.data)
    about.append(program.about)
  text = json.dumps({"programs": about}, indent=2) + "\n"
  (folder / "stablehlo" / "programs.json").write_text(text)


def _grid(model: Model, request: Request) -> np.ndarray:
  """Samples of all classes in turn, by two steps or the teacher's."""
  classes = model.network.config.num_classes
  images = model.sample(
    np.arange(request.num) % classes if classes else None,
    num=request.num,
    steps=2 if model.consistency else request.solver_steps,
    batch_size=min(request.num, 64),
  )
  return image_grid.image_grid(images, min(10, request.num))


def _check_replaceable(path: pathlib.Path) -> None:
  if not path.exists():
    return
  if not path.is_dir():
    raise ConfigError(f"--out={path} is a file; name a folder")
  if any(path.iterdir()) and export_folder.description(path) is None:
    raise ConfigError(
      f"--out={path} has files that are not an export; name a new folder"
    )
