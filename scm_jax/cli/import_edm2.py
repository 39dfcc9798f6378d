"""`scm-jax import-edm2`: a public EDM2 network as a teacher's workdir."""

import argparse
from typing import TYPE_CHECKING, Any

from scm_jax.cli import console
from scm_jax.errors import ConfigError, UserError

if TYPE_CHECKING:
  from etils import epath
  from ml_collections import ConfigDict

EXAMPLE = """\
scm-jax import-edm2 edm2-img512-s-2147483-0.025.pkl --out=runs/edm2-s \\
    --guide=edm2-img512-xs-uncond-2147483-0.025.pkl
scm-jax sample --workdir=runs/edm2-s --guidance=1.4"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
  parser.add_argument(
    "file", metavar="FILE.pkl", help="a network pickle; nothing in it is run"
  )
  parser.add_argument(
    "--out", metavar="DIR", required=True, help="the workdir that is made"
  )
  parser.add_argument(
    "--guide",
    metavar="FILE.pkl",
    help="a second network that guides the first: EDM2's small one without "
    "labels, or for autoguidance a smaller or less trained one",
  )
  parser.add_argument(
    "--dtype",
    choices=("float32", "bfloat16"),
    default="float32",
    help="of the computation; weights are float32; default float32",
  )


def run(args: argparse.Namespace, config_argv: list[str]) -> int:
  """Writes the workdir, whole or not at all."""
  console.start()

  from scm_jax import networks
  from scm_jax.training import workdir

  main = _converted(args.file, args.dtype)
  guide = _converted(args.guide, args.dtype) if args.guide else None
  if guide:
    _check_pair(args.guide, main[0], guide[0])

  def beside(partial: "epath.Path") -> None:
    if guide:
      workdir.write_averages(partial / workdir.GUIDE, *guide)

  path = workdir.write_averages(args.out, *main, beside=beside)
  for name, (config, averages, _, _) in (
    (args.file, main),
    *(((args.guide, guide),) if guide else ()),
  ):
    [params] = averages.values()
    millions = networks.parameter_count(params) / 1e6
    data = config.data
    print(
      f"{name}: {millions:.1f} M parameters, {data.kind} of {data.size}x"
      f"{data.size}x{data.channels}, {data.num_classes or 'no'} classes"
    )
  print(f"teacher: {path}")
  return 0


def _converted(
  file: str, dtype: str
) -> "tuple[ConfigDict, dict[str, Any], int, dict[str, Any]]":
  """Config, averages, step and origin of a file's network."""
  import os

  from scm_jax.interop import edm2, edm2_conversion
  from scm_jax.training import resolve
  from scm_jax.training.ema import averaging

  step, sigma_rel = edm2_conversion.training(os.path.basename(file))
  pickle = edm2.read(file)
  try:
    config = edm2_conversion.config(pickle, step, sigma_rel)
    config.network.dtype = dtype
    params = edm2_conversion.params(pickle, resolve.network_config(config))
  except UserError as error:
    raise UserError(f"{file} is not an EDM2 network: {error}") from error
  origin = {"format": "EDM2 network pickle", "file": os.path.basename(file)}
  return config, {averaging.name(sigma_rel): params}, step, origin


def _check_pair(file: str, config: "ConfigDict", guide: "ConfigDict") -> None:
  """Raises ConfigError for a guide of other data."""
  for field in ("size", "channels", "mean", "std"):
    if config.data[field] != guide.data[field]:
      raise ConfigError(
        f"--guide={file}: its config.data.{field} is {guide.data[field]}, the "
        f"network's is {config.data[field]}"
      )
  if guide.data.num_classes not in (0, config.data.num_classes):
    raise ConfigError(
      f"--guide={file}: it has {guide.data.num_classes} classes, the network "
      f"{config.data.num_classes}"
    )
