"""`scm-jax reconstruct`: makes EMA weights of other widths from snapshots."""

import argparse

from scm_jax.cli import console
from scm_jax.errors import ConfigError

EXAMPLE = """\
scm-jax reconstruct --workdir=runs/teacher --ema=0.03,0.05 --out=runs/teacher_03
scm-jax train --config=configs/digits.py:run=scd --workdir=runs/scd \\
    --config.teacher=runs/teacher_03"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Adds the task's flags."""
  parser.add_argument(
    "--workdir",
    metavar="DIR",
    required=True,
    help="workdir of a run with snapshots (config.snapshot_every)",
  )
  parser.add_argument(
    "--ema",
    metavar="SIGMA_REL,...",
    required=True,
    help="relative widths of the EMA weights; tasks use the first by default",
  )
  parser.add_argument(
    "--step",
    type=int,
    metavar="N",
    help="training step; the default is the newest checkpoint's",
  )
  parser.add_argument(
    "--out",
    metavar="DIR",
    required=True,
    help="new workdir, for sample, evaluate and --config.teacher",
  )


def run(args: argparse.Namespace, config_argv: list[str]) -> int:
  """Writes a workdir with the EMA weights and `origin.json`."""
  widths = parse_widths(args.ema)
  if args.step is not None and args.step < 1:
    raise ConfigError(f"--step is {args.step}; it must be positive")
  console.start()

  import jax

  from scm_jax.training import workdir
  from scm_jax.training.ema import averaging, loading

  config = workdir.load_config(args.workdir)
  workdir.check_free(args.out)  # before the work, not after it
  like = workdir.param_shapes(config)
  kept, errors, step = {}, {}, 0
  for width in widths:
    params, step, error = loading.reconstruct(
      args.workdir, config, width, like, args.step
    )
    # Kept on the host, so that no device ever holds more than two copies.
    kept[averaging.name(width)] = jax.device_get(params)
    errors[averaging.name(width)] = error
  with config.unlocked():
    config.ema = widths
  origin = {
    "format": "averages reconstructed from snapshots",
    "workdir": args.workdir,
    "step": step,
    "fit_error": errors,
  }
  path = workdir.write_averages(args.out, config, kept, step, origin)
  shown = ", ".join(map(str, widths))
  print(f"EMA weights of width {shown} at step {step}: {path}")
  return 0


def parse_widths(text: str) -> tuple[float, ...]:
  """Returns the numbers of a text such as `0.03,0.05`, each once.

  Raises:
    ConfigError: the text has something other than numbers.
  """
  try:
    return tuple(dict.fromkeys(float(word) for word in text.split(",")))
  except ValueError:
    raise ConfigError(f"--ema={text}: give widths, such as 0.03,0.05") from None
