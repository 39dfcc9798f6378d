"""Flags that several tasks have in common, and their checks."""

import argparse
from collections.abc import Sequence
from typing import Any

from scm_jax.errors import ConfigError
from scm_jax.interop.export_request import DTYPES


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Adds the solver, the first noise level and the type of numbers."""
  parser.add_argument(
    "--solver",
    choices=("heun", "dpm_solver"),
    help="ODE solver of a diffusion model; the default is the config's",
  )
  parser.add_argument(
    "--sigma-max",
    type=float,
    metavar="SIGMA",
    help="noise level that sampling starts from; the default is the config's",
  )
  add_dtype(parser)


def add_dtype(parser: argparse.ArgumentParser) -> None:
  """Adds the type of the weights and of the computation."""
  parser.add_argument(
    "--dtype",
    choices=DTYPES,
    default="",
    help="type in which the filters are kept and the network computes; the "
    "default is float32 weights, computed as in training",
  )


def add_ema(parser: argparse.ArgumentParser) -> None:
  """Adds the width of the EMA weights."""
  parser.add_argument(
    "--ema",
    type=float,
    default=0.0,
    metavar="SIGMA_REL",
    help="EMA weights to use: a relative width (any, if the run has snapshots "
    "to reconstruct it from) or a half-life in images; the default is the "
    "config's first",
  )


def add_autoencoder(parser: argparse.ArgumentParser) -> None:
  """Adds the file of the autoencoder that decodes latents."""
  parser.add_argument(
    "--autoencoder",
    metavar="FILE",
    help="autoencoder that decodes the samples of a network of latents; the "
    "default is the workdir's own, and an empty name draws small previews",
  )


def changes(args: argparse.Namespace) -> dict[str, Any]:
  """Returns the fields of a `Sampler` that the flags change.

  Raises:
    ConfigError: a noise level that is not positive.
  """
  if args.sigma_max is not None and not args.sigma_max > 0:
    raise ConfigError(f"--sigma-max is {args.sigma_max:g}; it must be positive")
  given = {"solver": args.solver, "sigma_max": args.sigma_max}
  return {name: value for name, value in given.items() if value is not None}


def check_times(flag: str, times: Sequence[float]) -> None:
  """Raises ConfigError for times that are not between data and noise."""
  for time in times:
    if not 0 < time < 1.57:
      raise ConfigError(f"{flag}={time:g}: a time must lie between 0 and pi/2")
