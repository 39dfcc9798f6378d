"""`scm-jax import-edm2`: makes a teacher's workdir of a public EDM2 network."""

import argparse
from typing import TYPE_CHECKING, Any, NamedTuple

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
  """Adds the task's flags."""
  parser.add_argument(
    "file",
    metavar="FILE.pkl",
    help="the network's pickle; no code in it is executed",
  )
  parser.add_argument(
    "--out", metavar="DIR", required=True, help="workdir that is made"
  )
  parser.add_argument(
    "--guide",
    metavar="FILE.pkl",
    help="pickle of a guidance network: EDM2's small network without labels, "
    "or for autoguidance a smaller or less trained one",
  )
  parser.add_argument(
    "--dtype",
    choices=("float32", "bfloat16"),
    default="float32",
    help="type of the computation, the weights being float32; the default is "
    "float32",
  )


def run(args: argparse.Namespace, config_argv: list[str]) -> int:
  """Writes the workdir, whole or not at all."""
  console.start()

  from scm_jax.training import workdir

  main = _converted(args.file, args.dtype)
  guide = _converted(args.guide, args.dtype) if args.guide else None
  if guide:
    _check_pair(args.guide, main.config, guide.config)

  def beside(partial: "epath.Path") -> None:
    if guide:
      workdir.write_averages(partial / workdir.GUIDE, *guide)

  path = workdir.write_averages(args.out, *main, beside=beside)
  _report(args.file, main)
  if guide:
    _report(args.guide, guide)
  print(f"teacher: {path}")
  return 0


class _Imported(NamedTuple):
  """What `workdir.write_averages` takes for one network."""

  config: "ConfigDict"
  averages: dict[str, Any]
  step: int
  origin: dict[str, Any]


def _report(file: str, imported: _Imported) -> None:
  """Prints the size of a network and of its data."""
  from scm_jax import networks

  [params] = imported.averages.values()
  millions = networks.parameter_count(params) / 1e6
  data = imported.config.data
  size = f"{data.size}x{data.size}x{data.channels}"
  classes = data.num_classes or "no"
  print(
    f"{file}: {millions:.1f} M parameters, {data.kind} of {size}, "
    f"{classes} classes"
  )


def _converted(file: str, dtype: str) -> _Imported:
  """Reads and converts a network."""
  import os

  from scm_jax.interop import edm2, edm2_names
  from scm_jax.interop.state_dict import Misfit
  from scm_jax.training import resolve
  from scm_jax.training.ema import averaging

  step, sigma_rel = edm2.training(os.path.basename(file))
  pickle = edm2.read(file)
  try:
    config = edm2.config(pickle, step, sigma_rel)
    config.network.dtype = dtype
    network = resolve.resolve(config).network
    params = edm2_names.params_from_tensors(network, pickle.tensors)
  except (Misfit, UserError) as error:
    raise UserError(f"{file} is not an EDM2 network: {error}") from error
  origin = {"format": "EDM2 network pickle", "file": os.path.basename(file)}
  return _Imported(config, {averaging.name(sigma_rel): params}, step, origin)


def _check_pair(file: str, config: "ConfigDict", guide: "ConfigDict") -> None:
  """Raises ConfigError for a guidance network of other data."""
  for field in ("size", "channels", "mean", "std"):
    if config.data[field] != guide.data[field]:
      raise ConfigError(
        f"--guide={file}: its config.data.{field} is {guide.data[field]}, but "
        f"the network's is {config.data[field]}"
      )
  if guide.data.num_classes not in (0, config.data.num_classes):
    raise ConfigError(
      f"--guide={file}: it has {guide.data.num_classes} classes, but the "
      f"network has {config.data.num_classes}"
    )
