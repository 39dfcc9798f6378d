"""Declares the flags of the tasks from tables of their help texts.

The name of a flag's value tells its type: `--num=N` takes a whole number,
`--ema=SIGMA_REL,...` several numbers, `--out=DIR` any text.
"""

import argparse
import contextlib
import dataclasses
import itertools
import math
from collections.abc import Callable, Collection, Mapping
from typing import Any, TypeVar, cast

from scm_jax import schema
from scm_jax.errors import ConfigError
from scm_jax.interop.export_request import DTYPES


def numbers_of_steps(text: str) -> float | tuple[float, ...]:
  """Reads a number, or several of which each belongs to a step: `1.3:1.0`."""
  return times_of_steps(text) if ":" in text else float(text)


def times_of_steps(text: str) -> tuple[float, ...]:
  """Reads the times of several steps: `1.1:0.5`, or one time."""
  return tuple(map(float, text.split(":")))


def noise_levels(text: str) -> tuple[float, ...]:
  """Reads two noise levels, `0.28:2.9`."""
  return times_of_steps(text)


_TYPES: dict[str, Any] = dict.fromkeys(("N", "L"), int)
_NUMBERS = ("S", "T", "PART", "SIGMA", "SIGMA_REL", "LOW", "GBPS")
_TYPES |= dict.fromkeys(_NUMBERS, float)
_TYPES |= {"SCALE": numbers_of_steps, "TIMES": times_of_steps}
_TYPES |= {"SIGMAS": noise_levels}
_WORDS = {int: "whole numbers, such as 1,2", float: "numbers", str: "names"}
_WORDS |= {
  numbers_of_steps: "numbers, or one for each step, such as 1.3:1.0",
  times_of_steps: "times in radians, such as 1.1:0.5 for the last two of three "
  "steps",
  noise_levels: "two noise levels, such as 0.28:2.9",
}

T = TypeVar("T")

# Flags that several tasks have in common.
SAMPLER = {
  "--solver={heun,dpm_solver}": "ODE solver of a diffusion model; the default "
  "is the config's",
  "--sigma-max=SIGMA": "first noise level of sampling; default the config's",
  "--guidance-interval=SIGMAS": "lowest and highest noise level at which a "
  "diffusion model is guided, as 0.28:2.9; default the config's",
  "--guidance-channels=N": "how many channels of a diffusion model's data are "
  "guided, from the first on; 0 is all; default the config's",
}
DTYPE = {
  f"--dtype={{{','.join(DTYPES)}}}": "type in which the filters are kept and "
  "the network computes; the default is float32 weights, computed as in "
  "training",
}
EMA = {
  "--ema=SIGMA_REL": "EMA weights to use: a relative width (any, if the run "
  "has snapshots to reconstruct it from) or a half-life in images; the default "
  "is the config's first",
}
GUIDE = {
  "--guide=DIR": "folder of a weak network that guides diffusion models in "
  "place of their own guide (autoguidance): a smaller run, or an early "
  "checkpoint or snapshot (DIR/snapshots/STEP); give --guidance too",
  "--guide-ema=SIGMA_REL": "EMA weights of that network, as --ema",
}
AUTOENCODER = {
  "--autoencoder=FILE": "autoencoder that decodes the samples of a network of "
  "latents; the default is the workdir's own, and an empty name draws small "
  "previews",
}
JSON = {"--json": "one JSON object instead of a table"}


def adder(
  flags: Mapping[str, Any], required: Collection[str] = (), **defaults: Any
) -> Callable[[Any], None]:
  """Returns the function that adds a task's flags to an argument parser.

  Args:
    flags: the help by the flag's form: `--num=N` takes a value, `--json` is a
      switch, `--solver={a,b}` takes one of two words, `--ema=S,...` a list,
      `file=FILE` stands without a flag. A mapping of a title is a group.
    required: the names of the flags that must be given.
    **defaults: the values of flags that are not given, None if absent. An empty
      text means a list's default. Where the default is a list, a flag may be
      repeated.
  """

  def add(parser: Any) -> None:
    for form, text in flags.items():
      if isinstance(text, Mapping):
        group = parser.add_argument_group(form)
        adder(text, required, **defaults)(group)
        continue
      names, takes_value, metavar = form.partition("=")
      words = names.split(",")
      name = words[0].lstrip("-").replace("-", "_")
      default = defaults.get(name)
      options: dict[str, Any] = {"help": text}
      if names.startswith("--"):
        options["required"] = name in required
      if not takes_value:
        options["action"] = "store_true"
      elif metavar.startswith("{"):
        options |= {"choices": metavar[1:-1].split(","), "default": default}
      else:
        kind = _reader(metavar, default)
        options |= {"type": kind, "metavar": metavar, "default": default}
      if isinstance(default, list):
        options["action"] = "append"
      parser.add_argument(*words, **options)

  return add


def _reader(metavar: str, default: Any) -> Callable[[str], Any]:
  """Returns the function that reads a flag's value."""
  first, several, _ = metavar.partition(",")
  kind = _TYPES.get(first, str)
  if not several and isinstance(kind, type):
    return kind

  def read(text: str) -> Any:
    if not text and default is not None:
      return default
    with contextlib.suppress(ValueError):
      parts = text.split(",") if several else [text]
      if values := tuple(map(kind, filter(None, parts))):
        return values if several else values[0]
    raise argparse.ArgumentTypeError(f"{text!r}: give {_WORDS[kind]}")

  return read


def word(name: str) -> str:
  """Returns the flag of an argument: `--t-mid` of `t_mid`."""
  return f"--{name.replace('_', '-')}"


def check(args: argparse.Namespace, *names: str, least: int) -> None:
  """Raises ConfigError for numbers below `least`, or twice in one flag."""
  for name in names:
    flag, value = word(name), getattr(args, name)
    numbers = value if isinstance(value, tuple) else (value,)
    each = (x if isinstance(x, tuple) else (x,) for x in numbers)
    for number in itertools.chain.from_iterable(each):
      if number is not None and not number >= least:
        must = "positive" if least == 1 else f"at least {least}"
        raise ConfigError(f"{flag} is {number}; it must be {must}")
    if len(set(numbers)) < len(numbers):
      raise ConfigError(f"{flag} has a number twice; give different ones")


def check_times(*times: float | None) -> None:
  """Raises ConfigError for times that are not between data and noise."""
  for time in times:
    if time is not None and not 0 <= time < 1.57:
      raise ConfigError(f"--t-mid={time:g}: a time must lie between 0 and pi/2")


def check_steps_times(times: tuple[float, ...]) -> None:
  """Raises ConfigError for times of steps that do not decrease."""
  all_times = (math.pi / 2, *times, 0.0)
  if not all(a > b for a, b in itertools.pairwise(all_times)):
    raise ConfigError(
      f"--times={':'.join(map(str, times))}: times of steps must decrease from "
      "less than pi/2 to more than 0"
    )


def check_parts(*parts: float | None) -> None:
  """Raises ConfigError for parts of the noise that are not from 0 to 1."""
  for part in parts:
    if part is not None and not 0 <= part <= 1:
      raise ConfigError(f"--gamma={part:g}: a part must be from 0 to 1")


def sampler_changes(args: argparse.Namespace, *more: str) -> dict[str, Any]:
  """Returns the fields of a `Sampler` that `SAMPLER` and other flags change."""
  if args.sigma_max is not None and not 0 < args.sigma_max < math.inf:
    raise ConfigError(f"--sigma-max is {args.sigma_max:g}; it must be positive")
  if args.guidance_interval is not None:
    schema.check_interval(args.guidance_interval, "--guidance-interval")
  check(args, "guidance_channels", least=0)
  names = "solver", "sigma_max", "guidance_interval", "guidance_channels", *more
  return {key: x for key in names if (x := getattr(args, key)) is not None}


def build(kind: type[T], args: argparse.Namespace, **values: Any) -> T:
  """Returns a dataclass whose fields have the values of flags of their names.

  Fields without such a flag, or whose flag was not given, keep their defaults;
  `values` are fields that are not flags, or not as they are given.
  """
  given = {key: x for key, x in vars(args).items() if x is not None} | values
  names = [field.name for field in dataclasses.fields(cast(Any, kind))]
  return kind(**{name: given[name] for name in names if name in given})
