"""Flags of a sampler, which `sample` and `evaluate` have in common."""

import argparse
from collections.abc import Sequence
from typing import Any

from scm_jax.cli.export import DTYPES
from scm_jax.errors import ConfigError


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """The solver, the first noise level, and the type of numbers."""
  parser.add_argument(
    "--solver",
    choices=("heun", "dpm_solver"),
    help="of teachers; default the config's",
  )
  parser.add_argument(
    "--sigma-max",
    type=float,
    metavar="SIGMA",
    help="noise level that sampling starts from; default the config's",
  )
  parser.add_argument(
    "--dtype",
    choices=DTYPES,
    default="",
    help="in which the network computes and its filters are kept; default as "
    "in training, with float32 weights",
  )


def changes(args: argparse.Namespace) -> dict[str, Any]:
  """Fields of a `Model` that the flags change.

  Raises:
    ConfigError: a noise level that is not positive.
  """
  if args.sigma_max is not None and not args.sigma_max > 0:
    raise ConfigError(f"--sigma-max is {args.sigma_max:g}; it must be positive")
  given = {"solver": args.solver, "sigma_max": args.sigma_max}
  return {name: value for name, value in given.items() if value is not None}


def check_times(flag: str, times: Sequence[float]) -> None:
  """Raises ConfigError for times that are not between noise and data."""
  for time in times:
    if not 0 < time < 1.57:
      raise ConfigError(f"{flag}={time:g}: times are between 0 and pi/2")
