"""`scm-jax export`: writes a trained network for other programs."""

import argparse
from typing import TYPE_CHECKING, Any

from scm_jax.cli import console, settings
from scm_jax.errors import ConfigError
from scm_jax.interop.export_request import FORMATS

if TYPE_CHECKING:
  from etils import epath

  from scm_jax.sampler import Sampler

EXAMPLE = """\
scm-jax export --workdir=runs/digits/scd --out=exports/digits
scm-jax export --workdir=runs/digits/scd --out=exports/digits-bf16 \\
    --dtype=bfloat16 --formats=safetensors,diffusers,onnx --license=mit"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Adds the task's flags."""
  parser.add_argument(
    "--workdir",
    metavar="DIR",
    required=True,
    help="the workdir of a trained run, one of its checkpoints, or an export",
  )
  parser.add_argument(
    "--out", metavar="DIR", required=True, help="the folder that is written"
  )
  parser.add_argument(
    "--formats",
    metavar="NAME,...",
    default="",
    help=f"formats out of {', '.join(FORMATS)}; safetensors is always written; "
    "the default is all that the network has but onnx, which needs PyTorch",
  )
  settings.add_ema(parser)
  settings.add_autoencoder(parser)
  settings.add_dtype(parser)
  parser.add_argument(
    "--steps",
    metavar="N,...",
    default="",
    help="numbers of steps of the StableHLO samplers; the default is 1,2,4 for "
    "a consistency model and the config's for a diffusion model",
  )
  parser.add_argument(
    "--bake",
    action="store_true",
    help="put the weights into the StableHLO programs",
  )
  parser.add_argument(
    "--num",
    type=int,
    default=40,
    metavar="N",
    help="samples in the model card's grid; the default is 40, and 0 is none",
  )
  parser.add_argument(
    "--license",
    default="unknown",
    metavar="NAME",
    help="licence for the model card, as hubs name it, such as apache-2.0",
  )
  parser.add_argument(
    "--name",
    default="",
    help="title of the model card; the default is the folder's name",
  )


def run(args: argparse.Namespace, config_argv: list[str]) -> int:
  """Writes the export, whole or not at all."""
  formats = None if args.formats == "" else _formats(args.formats)
  steps = _steps(args.steps)
  if args.num < 0:
    raise ConfigError(f"--num is {args.num}; it must not be negative")
  console.start()

  import json
  import pathlib

  from etils import epath

  from scm_jax import configuration
  from scm_jax.interop import export
  from scm_jax.training import workdir

  if "://" in args.out:
    raise ConfigError(
      f"--out={args.out}: an export is written to a local disk; choose a local "
      "folder, and copy it afterwards"
    )
  sampler, about = workdir.load(args.workdir, args.ema, args.autoencoder)
  origin = export.Origin(
    json.loads(configuration.to_json(about["config"])),
    about["step"],
    about["ema"],
  )
  request = export.Request(
    formats=_default_formats(sampler) if formats is None else formats,
    dtype=args.dtype,
    steps=steps,
    bake=args.bake,
    license=args.license,
    name=args.name or pathlib.Path(args.out).absolute().name,
    num=args.num,
  )
  report = _report(epath.Path(args.workdir))
  out = export.write(sampler, origin, args.out, request, report)
  for path in sorted(p for p in out.rglob("*") if p.is_file()):
    print(f"{path.stat().st_size:>12,}  {path}")
  return 0


def _formats(text: str) -> tuple[str, ...]:
  from scm_jax import errors

  formats = tuple(filter(None, text.split(",")))
  for name in formats:
    if name not in FORMATS:
      raise ConfigError(
        f"--formats: no format {name!r}; {errors.hint(name, FORMATS)}"
      )
  if not formats:
    raise ConfigError("--formats is empty; name at least one format")
  return formats


def _default_formats(sampler: "Sampler") -> tuple[str, ...]:
  """Returns the formats that are written unless the user chooses."""
  import logging

  from scm_jax.interop import export_pytorch

  if export_pytorch.fits(sampler):
    return FORMATS[:3]
  logging.warning(
    "diffusers is left out: there is no PyTorch module of %s",
    type(sampler.network.config).__name__.removesuffix("Config"),
  )
  return FORMATS[:2]


def _steps(text: str) -> tuple[int, ...]:
  try:
    steps = tuple(int(word) for word in text.split(",")) if text else ()
  except ValueError:
    steps = (0,)
  if any(n < 1 for n in steps) or len(set(steps)) < len(steps):
    raise ConfigError(
      f"--steps={text}: give different positive whole numbers, such as 1,2"
    )
  return steps


def _report(workdir: "epath.Path") -> dict[str, Any] | None:
  """Reads the run's `report.json`; None if it was not evaluated."""
  import json

  try:
    return json.loads((workdir / "report.json").read_text())
  except (OSError, ValueError):
    return None
