"""`scm-jax import-sit`: makes a workdir of a public SiT or LightningDiT."""

import argparse
import logging
import os

from scm_jax.cli import flags
from scm_jax.errors import UserError

EXAMPLE = """\
scm-jax import-sit SiT-XL-2-256.pt --out=runs/sit
scm-jax sample --workdir=runs/sit --guidance=1.5
scm-jax train --config=adapt:run=teacher,data=imagenet256,teacher=runs/sit \\
    --workdir=runs/adapted
scm-jax import-sit lightningdit-xl-imagenet256-800ep.pt \\
    --statistics=latents_stats.pt --out=runs/lightning"""

FLAGS = {
  "file=FILE.pt": "weights of SiT, REPA's SiT, LightningDiT or FACM's teacher; "
  "no code in the file is executed",
  "--out=DIR": "workdir that is made",
  "--statistics=FILE.pt": "mean and deviation of each channel of the latents, "
  "LightningDiT's latents_stats.pt; the default is SiT's scale, 0.18215",
  "--student": "the file is one of FACM's students (stg2), which draw in one "
  "step or two, and not of a teacher",
  "--dtype={float32,bfloat16}": "type of the computation, the weights being "
  "float32; the default is float32",
}
add_arguments = flags.adder(FLAGS, ["out"], statistics="", dtype="float32")


def run(args: argparse.Namespace, config_argv: list[str]) -> None:
  """Writes the workdir, whole or not at all."""
  from scm_jax import networks
  from scm_jax.interop import sit
  from scm_jax.interop.state_dict import Misfit
  from scm_jax.training import resolve, workdir
  from scm_jax.training.ema import averaging

  tensors = sit.read(args.file)
  statistics = args.statistics and sit.read_statistics(args.statistics)
  try:
    config = sit.config(tensors, statistics or None, args.student)
    config.network.dtype = args.dtype
    network = resolve.resolve(config).network
    assert isinstance(network, networks.DiTConfig)
    params = sit.params_from_tensors(network, tensors)
  except (Misfit, UserError) as error:
    raise UserError(
      f"{args.file} is not a SiT or LightningDiT network: {error}"
    ) from error
  expected = sit.expected_of_noise(network, params, labelled=args.student)
  if (expected > sit.MOST_OF_NOISE) != args.student:
    usual, others = "0.2 or less", "a DiT network, a student (--student)"
    if args.student:
      usual, others = "1", "a teacher (no --student)"
    logging.warning(
      f"of noise alone, the network of {args.file} expects data of the "
      f"magnitude {expected:.2f} and not of about {usual}, as these do: is it "
      f"{others}, or not trained? Look at its samples before you use it"
    )
  origin = {"format": "SiT state dict", "file": os.path.basename(args.file)}
  kept = {averaging.name(config.ema[0]): params}
  path = workdir.write_averages(args.out, config, kept, 0, origin)
  millions, data = networks.parameter_count(params) / 1e6, config.data
  print(
    f"{args.file}: {millions:.1f} M parameters, {data.kind} of "
    f"{data.size}x{data.size}x{data.channels}, {data.num_classes} classes"
  )
  print(f"{'student' if args.student else 'teacher'}: {path}")
