"""`scm-jax import-sit`: makes a teacher's workdir of a public SiT network."""

import argparse
import logging
import os

from scm_jax.cli import flags
from scm_jax.errors import UserError

EXAMPLE = """\
scm-jax import-sit SiT-XL-2-256.pt --out=runs/sit
scm-jax sample --workdir=runs/sit --guidance=1.5
scm-jax train --config=adapt:run=teacher,data=imagenet256,size=xl \\
    --workdir=runs/adapted --config.teacher=runs/sit"""

FLAGS = {
  "file=FILE.pt": "SiT's weights, or those of REPA's SiT; no code in the file "
  "is executed",
  "--out=DIR": "workdir that is made",
  "--dtype={float32,bfloat16}": "type of the computation, the weights being "
  "float32; the default is float32",
}
add_arguments = flags.adder(FLAGS, ["out"], dtype="float32")


def run(args: argparse.Namespace, config_argv: list[str]) -> None:
  """Writes the workdir, whole or not at all."""
  from scm_jax import networks
  from scm_jax.interop import sit
  from scm_jax.interop.state_dict import Misfit
  from scm_jax.training import resolve, workdir
  from scm_jax.training.ema import averaging

  tensors = sit.read(args.file)
  try:
    config = sit.config(tensors)
    config.network.dtype = args.dtype
    network = resolve.resolve(config).network
    assert isinstance(network, networks.DiTConfig)
    params = sit.params_from_tensors(network, tensors)
  except (Misfit, UserError) as error:
    raise UserError(f"{args.file} is not a SiT network: {error}") from error
  expected = sit.expected_of_noise(network, params)
  if expected > sit.MOST_OF_NOISE:
    logging.warning(
      f"of noise alone, the network of {args.file} expects data of the "
      f"magnitude {expected:.2f}, where one of SiT's should expect about 0.2: "
      "is it a DiT network, or not trained? Look at its samples before you use "
      "it"
    )
  origin = {"format": "SiT state dict", "file": os.path.basename(args.file)}
  kept = {averaging.name(config.ema[0]): params}
  path = workdir.write_averages(args.out, config, kept, 0, origin)
  millions, data = networks.parameter_count(params) / 1e6, config.data
  print(
    f"{args.file}: {millions:.1f} M parameters, {data.kind} of "
    f"{data.size}x{data.size}x{data.channels}, {data.num_classes} classes"
  )
  print(f"teacher: {path}")
