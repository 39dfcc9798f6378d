"""`scm-jax export`: artifacts for downstream samplers."""

import argparse
from typing import TYPE_CHECKING, Any

from scm_jax.cli import console
from scm_jax.errors import ConfigError

if TYPE_CHECKING:
  from etils import epath

  from scm_jax.model import Model

EXAMPLE = """\
scm-jax export --workdir=runs/digits/scd --out=exports/digits
scm-jax export --workdir=runs/digits/scd --out=exports/digits-bf16 \\
    --dtype=bfloat16 --formats=safetensors,diffusers,onnx --license=mit"""

FORMATS = ("safetensors", "stablehlo", "diffusers", "onnx")
DTYPES = ("float32", "bfloat16", "float16")


def add_arguments(parser: argparse.ArgumentParser) -> None:
  parser.add_argument(
    "--workdir", metavar="DIR", required=True, help="a trained run"
  )
  parser.add_argument(
    "--out", metavar="DIR", required=True, help="the folder that is written"
  )
  parser.add_argument(
    "--formats",
    metavar="NAME,...",
    default="",
    help=f"of {', '.join(FORMATS)}; default those of the network but onnx, "
    "which needs PyTorch; safetensors is always written",
  )
  parser.add_argument(
    "--ema",
    type=float,
    default=0.0,
    metavar="SIGMA_REL",
    help="width of the weight average; default the config's first",
  )
  parser.add_argument(
    "--autoencoder",
    metavar="FILE",
    help="of a model of latents, what decodes its samples; default the "
    "workdir's own, empty for a preview",
  )
  parser.add_argument(
    "--dtype",
    choices=DTYPES,
    default="",
    help="in which weights are stored and the network computes; default "
    "float32 weights, computed as in training",
  )
  parser.add_argument(
    "--steps",
    metavar="N,...",
    default="",
    help="of the StableHLO samplers; default 1,2,4, or the teacher's",
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
    help="samples in the model card's grid; default 40, 0 for none",
  )
  parser.add_argument(
    "--license",
    default="unknown",
    metavar="NAME",
    help="the model card's, as hubs name it, such as apache-2.0",
  )
  parser.add_argument(
    "--name", default="", help="the model card's title; default --out's name"
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
      f"--out={args.out}: an export is written to a local disk; copy it then"
    )
  model, about = workdir.load(args.workdir, args.ema, args.autoencoder)
  config = about["config"]
  origin = export.Origin(
    json.loads(configuration.to_json(config)), about["step"], about["ema"]
  )
  request = export.Request(
    formats=_default(model) if formats is None else formats,
    dtype=args.dtype,
    steps=steps,
    bake=args.bake,
    license=args.license,
    name=args.name or pathlib.Path(args.out).absolute().name,
    num=args.num,
    solver_steps=config.sample.solver_steps,
  )
  report = _report(epath.Path(args.workdir))
  out = export.write(model, origin, args.out, request, report)
  for path in sorted(p for p in out.rglob("*") if p.is_file()):
    print(f"{path.stat().st_size:>12,}  {path}")
  return 0


def _formats(text: str) -> tuple[str, ...]:
  from scm_jax import spelling

  formats = tuple(filter(None, text.split(",")))
  for name in formats:
    if name not in FORMATS:
      raise ConfigError(
        f"--formats: no format {name!r}; {spelling.hint(name, FORMATS)}"
      )
  if not formats:
    raise ConfigError("--formats names none")
  return formats


def _default(model: "Model") -> tuple[str, ...]:
  """What is written unless the user chooses; says what the network lacks."""
  import logging

  from scm_jax.interop import export_pytorch

  if export_pytorch.fits(model):
    return FORMATS[:3]
  logging.warning(
    "%s has no PyTorch module: diffusers is left out",
    type(model.network.config).__name__.removesuffix("Config"),
  )
  return FORMATS[:2]


def _steps(text: str) -> tuple[int, ...]:
  try:
    steps = tuple(int(word) for word in text.split(",")) if text else ()
  except ValueError:
    steps = (0,)
  if any(n < 1 for n in steps) or len(set(steps)) < len(steps):
    raise ConfigError(
      f"--steps={text}: give different positive whole numbers, as 1,2"
    )
  return steps


def _report(workdir: "epath.Path") -> dict[str, Any] | None:
  """The run's report, if it has been evaluated."""
  import json

  try:
    return json.loads((workdir / "report.json").read_text())
  except (OSError, ValueError):
    return None
