"""`scm-jax convert-weights`: converts a feature network's weights."""

import argparse
import os

from scm_jax.cli import console

EXAMPLE = """\
scm-jax convert-weights inception pt_inception-2015-12-05-6726825d.pth \\
    inception.safetensors
scm-jax evaluate --workdir=runs/digits --features=inception \\
    --weights=inception=inception.safetensors"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Adds the task's flags."""
  parser.add_argument(
    "name", metavar="NAME", help="feature network: inception or dinov2"
  )
  parser.add_argument(
    "source",
    metavar="FILE",
    help="the published .pth or .pkl file; no code in it is executed",
  )
  parser.add_argument(
    "target", metavar="FILE.safetensors", help="file that is made"
  )


def run(args: argparse.Namespace, config_argv: list[str]) -> int:
  """Checks the source and writes the target, whole or not at all."""
  console.start()

  from scm_jax.metrics import extractors

  extractors.convert(args.name, args.source, args.target)
  print(f"{os.path.getsize(args.target) / 1e6:.1f} MB: {args.target}")
  return 0
