"""Writing an export: a folder that other programs' samplers load.

    README.md          the model card      grid.png   samples
    config.json        the network, how to sample from it, how it was trained
    model.safetensors  the parameters, by this package's names
    vae/               the autoencoder of a network of latents, if it has one
    report.json        the scores, if the run was evaluated
    stablehlo/         samplers for jax alone
    unet/ ...          files for diffusers (see `export_pytorch`)
    onnx/              the 1-step sampler

The folder can be pushed to a model hub as it is. It is written whole or not at
all.
"""

import json
import os
import pathlib
from typing import Any

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
from scm_jax.interop.export_request import Request
from scm_jax.sampler import Sampler


def write(
  sampler: Sampler,
  origin: Origin,
  out: str | os.PathLike[str],
  request: Request,
  report: dict[str, Any] | None = None,
) -> pathlib.Path:
  """Writes the folder `out`; an earlier export there is replaced.

  Args:
    sampler: a sampler as a workdir or another export loads it.
    origin: the run and the checkpoint that it comes from.
    out: the folder, on this machine's disk.
    request: what to write.
    report: the content of the run's `report.json`, if it was evaluated.

  Returns:
    The folder's path.

  Raises:
    ConfigError: the network cannot be written in a format, or `out` holds
      something other than an export.
    UserError: the folder cannot be written; an earlier export is still there.
  """
  check(sampler, request)
  sampler = export_folder.as_computed(sampler, request.dtype)
  origin = _with_dtype(origin, request.dtype)
  # The same sampler with its parameters as they are stored, on the host.
  weights = export_folder.cast(sampler.weights, request.dtype or "float32")
  stored = sampler.with_weights(weights)
  formats = request.written
  _check_replaceable(pathlib.Path(out))
  with files.replaced_folder(out) as folder:
    export_folder.write(folder, stored, origin)
    if network := autoencoder.attached(sampler):
      path = folder / export_folder.AUTOENCODER
      autoencoder.write(path, network, sampler.decoder)
    if "stablehlo" in formats:
      _write_stablehlo(folder / "stablehlo", stored, request)
    published = sampler.network.config.form == "edm2"
    if {"diffusers", "onnx"} & set(formats) or published:
      export_pytorch.write_unet(folder / "unet", stored)
    if "diffusers" in formats:
      export_pytorch.write_pipeline(folder, stored)
    if "onnx" in formats:
      from scm_jax.interop import export_onnx  # needs PyTorch

      export_onnx.write(folder, sampler)
    if report:
      _write_json(folder / "report.json", report)
    if request.num:
      images = sampler.sample(num=request.num)
      grid = image_grid.image_grid(images, min(10, request.num))
      image_grid.save_png(folder / "grid.png", grid)
    card = model_card.text(sampler, origin, request, report)
    (folder / "README.md").write_text(card)
  return pathlib.Path(out)


def check(sampler: Sampler, request: Request) -> None:
  """Raises ConfigError for a format that the network does not have."""
  if {"diffusers", "onnx"} & set(request.formats):
    export_pytorch.check(sampler)
  if "onnx" in request.formats and not sampler.rules.few_steps:
    raise ConfigError(
      f"--formats: onnx is the 1-step sampler, and a {sampler.kind} model "
      "takes many steps; leave onnx out"
    )


def _with_dtype(origin: Origin, dtype: str) -> Origin:
  """Returns the origin with the type that the exported network computes in."""
  if not dtype:
    return origin
  network = origin.config.get("network", {}) | {"dtype": dtype}
  return origin._replace(config=origin.config | {"network": network})


def _write_stablehlo(
  folder: pathlib.Path, sampler: Sampler, request: Request
) -> None:
  folder.mkdir()
  few = (1, 2, 4) if sampler.rules.few_steps else (sampler.steps,)
  descriptions = []
  for program in stablehlo.programs(
    sampler, request.steps or few, baked=request.bake
  ):
    (folder / program.description["file"]).write_bytes(program.data)
    descriptions.append(program.description)
  _write_json(folder / "programs.json", {"programs": descriptions})


def _write_json(path: pathlib.Path, value: Any) -> None:
  path.write_text(json.dumps(value, indent=2) + "\n")


def _check_replaceable(path: pathlib.Path) -> None:
  if not path.exists():
    return
  if not path.is_dir():
    raise ConfigError(f"--out={path} is a file; name a folder")
  if any(path.iterdir()) and export_folder.description(path) is None:
    raise ConfigError(
      f"--out={path} has files that are not an export; name a new folder"
    )
