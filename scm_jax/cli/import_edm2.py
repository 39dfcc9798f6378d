"""`scm-jax import-edm2`: makes a teacher's workdir of a public EDM2 network."""

import argparse
import os
from typing import Any

from scm_jax.cli import flags
from scm_jax.errors import ConfigError, UserError

EXAMPLE = """\
scm-jax import-edm2 edm2-img512-s-2147483-0.025.pkl --out=runs/edm2-s \\
    --guide=edm2-img512-xs-uncond-2147483-0.025.pkl
scm-jax sample --workdir=runs/edm2-s --guidance=1.4"""

FLAGS = {
  "file=FILE.pkl": "the network's pickle; no code in it is executed",
  "--out=DIR": "workdir that is made",
  "--guide=FILE.pkl": "pickle of a guidance network: EDM2's small network "
  "without labels, or for autoguidance a smaller or less trained one",
  "--dtype={float32,bfloat16}": "type of the computation, the weights being "
  "float32; the default is float32",
}
add_arguments = flags.adder(FLAGS, ["out"], dtype="float32")


def run(args: argparse.Namespace, config_argv: list[str]) -> None:
  """Writes the workdir, whole or not at all."""
  from scm_jax.training import workdir

  files = [args.file, args.guide] if args.guide else [args.file]
  main, *guides = (_converted(file, args.dtype) for file in files)
  for guide in guides:
    _check_pair(args.guide, main[0], guide[0])

  def beside(partial: Any) -> None:
    for guide in guides:
      workdir.write_averages(partial / workdir.GUIDE, *guide)

  path = workdir.write_averages(args.out, *main, beside=beside)
  for file, (config, averages, *_) in zip(files, (main, *guides), strict=True):
    _report(file, config.data, *averages.values())
  print(f"teacher: {path}")


def _report(file: str, data: Any, params: Any) -> None:
  from scm_jax import networks

  millions = networks.parameter_count(params) / 1e6
  print(
    f"{file}: {millions:.1f} M parameters, {data.kind} of "
    f"{data.size}x{data.size}x{data.channels}, {data.num_classes or 'no'} "
    "classes"
  )


def _converted(
  file: str, dtype: str
) -> tuple[Any, dict[str, Any], int, dict[str, Any]]:
  """Returns a network's config, EMA weights, step and origin."""
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
  return config, {averaging.name(sigma_rel): params}, step, origin


def _check_pair(file: str, config: Any, guide: Any) -> None:
  """Raises ConfigError for a guidance network of other data."""
  fields = ["size", "channels", "mean", "std"]
  if guide.data.num_classes:
    fields.append("num_classes")
  for field in fields:
    if config.data[field] != guide.data[field]:
      raise ConfigError(
        f"--guide={file}: its config.data.{field} is {guide.data[field]}, but "
        f"the network's is {config.data[field]}"
      )
