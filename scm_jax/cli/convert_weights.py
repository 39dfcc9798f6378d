"""`scm-jax convert-weights`: converts a feature network's weights."""

import argparse
import os

from scm_jax.cli import flags

EXAMPLE = """\
scm-jax convert-weights inception pt_inception-2015-12-05-6726825d.pth \\
    inception.safetensors
scm-jax evaluate --workdir=runs/digits/scd --features=inception \\
    --weights=inception=inception.safetensors"""

FLAGS = {
  "name=NAME": "feature network: inception, dinov2 or clip",
  "source=FILE": "the published .pth or .pkl file; no code in it is executed",
  "target=FILE.safetensors": "file that is made",
}
add_arguments = flags.adder(FLAGS)


def run(args: argparse.Namespace, config_argv: list[str]) -> None:
  """Checks the source and writes the target, whole or not at all."""
  from scm_jax.metrics import extractors

  extractors.convert(args.name, args.source, args.target)
  print(f"{os.path.getsize(args.target) / 1e6:.1f} MB: {args.target}")
