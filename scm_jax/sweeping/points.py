"""The points of a sweep, which a config file's `sweep()` returns.

    def sweep():
      teacher = Point("teacher", arg="run=teacher")
      students = points(
        grid({"objective.tangent_c": (0.03, 0.1, 0.3)}),
        arg="run=scd",
        teacher="teacher",
      )
      return seeds([teacher, *students], 3)

Overrides are flat: `{"optimizer.learning_rate": 1e-3}`. All functions here are
pure, and the module imports nothing heavy, because config files use it.
"""

import dataclasses
import fnmatch
import graphlib
import itertools
import math
import random
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from scm_jax import errors
from scm_jax.errors import ConfigError

Overrides = Mapping[str, Any]
Distribution = Callable[[random.Random], Any]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._=+-]*")
RESERVED = ("evaluation", "slurm")  # folders of the sweep itself
# Fields of the config whose value is another run's folder.
_SOURCES = ("teacher", "start", "guide")


@dataclasses.dataclass(frozen=True)
class Point:
  """One training in a folder of its own, and how it is scored.

  Attributes:
    name: the name of its folder in the sweep's workdir.
    overrides: values of the config's fields, by their dotted names.
    arg: the argument for the config's `get_config`, such as `run=scd`.
    teacher: the name of the point that is its `config.teacher`; "" for none.
    start: the name of the point that is its `config.start`; "" for none.
    guide: the name of the point that is its `config.guide`; "" for none.
    sampling: the ways to sample that are scored, each as flags of
      `scm-jax evaluate`, such as `{"steps": (1, 2), "t_mid": 0.8}`. Fields of
      `config.sample` are swept here, because they need no training.
    group: the name that points share which differ in their seed alone; ""
      stands for `name`.
  """

  name: str
  overrides: Overrides = dataclasses.field(default_factory=dict)
  arg: str = ""
  teacher: str = ""
  start: str = ""
  guide: str = ""
  sampling: tuple[Overrides, ...] = ({},)
  group: str = ""

  @property
  def needs(self) -> dict[str, str]:
    """The names of the points that it needs, by the config's field."""
    return {n: value for n in _SOURCES if (value := getattr(self, n))}


def grid(fields: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
  """Returns all combinations of the fields' values, the last field fastest."""
  return [
    dict(zip(fields, values, strict=True))
    for values in itertools.product(*fields.values())
  ]


def zipped(fields: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
  """Returns the fields' first values together, then their second ones, ..."""
  counts = {field: len(values) for field, values in fields.items()}
  if len(set(counts.values())) > 1:
    raise ConfigError(
      f"sweep(): the fields of zipped() have different lengths: {counts}"
    )
  rows = zip(*fields.values(), strict=True)
  return [dict(zip(fields, row, strict=True)) for row in rows]


def randomly(
  fields: Mapping[str, Distribution | Sequence[Any]], count: int, seed: int = 0
) -> list[dict[str, Any]]:
  """Returns random draws of a `uniform`, a `log_uniform` or a list by field.

  Draws are independent and a function of the seed; a larger count adds to those
  of a smaller one.
  """
  rng = random.Random(seed)
  return [
    {
      field: how(rng) if callable(how) else rng.choice(how)
      for field, how in fields.items()
    }
    for _ in range(count)
  ]


def uniform(low: float, high: float) -> Distribution:
  """Returns a uniform distribution between two numbers, to four digits."""
  return lambda rng: float(f"{rng.uniform(low, high):.4g}")


def log_uniform(low: float, high: float) -> Distribution:
  """Returns a log-uniform distribution between two numbers, to four digits."""
  logarithm = lambda rng: rng.uniform(math.log(low), math.log(high))
  return lambda rng: float(f"{math.exp(logarithm(rng)):.4g}")


def points(
  overrides: Iterable[Overrides],
  *,
  arg: str = "",
  teacher: str = "",
  sampling: tuple[Overrides, ...] = ({},),
  prefix: str = "",
) -> list[Point]:
  """Returns a point for each dictionary of overrides, as `grid` returns them.

  A point is named after its values, after the prefix if there is one:
  `P_mean=-1.0_tangent_c=0.1`. All points share the other arguments.
  """
  return [
    Point(name(fields, prefix), fields, arg, teacher, sampling=sampling)
    for fields in overrides
  ]


def name(fields: Overrides, prefix: str = "") -> str:
  """Returns a file name made of the fields' last parts and their values."""
  words = [prefix] if prefix else []
  for field, value in fields.items():
    text = re.sub(r"[^A-Za-z0-9.+-]+", "-", str(value)).strip("-,") or "none"
    sign = "-" if str(value).startswith("-") else ""
    words.append(f"{field.rpartition('.')[2]}={sign}{text}")
  return "_".join(words)


def seeds(points: Iterable[Point], which: int | Sequence[int]) -> list[Point]:
  """Returns every point with several seeds, each with its own seed's sources.

  The points contain those that they need; `which` are the seeds, or how many.
  """
  points = list(points)
  numbers = range(which) if isinstance(which, int) else which

  def sources(point: Point, seed: int) -> dict[str, Any]:
    return {field: f"{n}_seed={seed}" for field, n in point.needs.items()}

  return [
    dataclasses.replace(
      point,
      name=f"{point.name}_seed={seed}",
      overrides={**point.overrides, "seed": seed},
      group=point.group or point.name,
      **sources(point, seed),
    )
    for seed in numbers
    for point in points
  ]


def checked(points: Iterable[Point]) -> list[Point]:
  """Checks the points and returns them, each after those that it needs.

  Raises:
    ConfigError: there are no points, a name occurs twice or cannot be a folder,
      one that is needed is not among them, a point needs itself, or an override
      sets a field of `config.sample`.
  """
  by_name: dict[str, Point] = {}
  for point in points:
    if not isinstance(point, Point):
      raise ConfigError(f"sweep() returned {point!r}, which is not a Point")
    folder = point.name
    if not _NAME.fullmatch(folder) or folder in RESERVED:
      raise ConfigError(
        f"sweep(): the name {folder!r} of a point cannot be a run's folder"
      )
    if folder in by_name:
      raise ConfigError(f"sweep(): two points are named {folder!r}")
    for field in point.overrides:
      if field.startswith("sample."):
        raise ConfigError(
          f"sweep(): {folder!r} overrides {field}, which does not change the "
          f"training; write sampling=({{{field[7:]!r}: ...}},) instead"
        )
    by_name[folder] = point
  if not by_name:
    raise ConfigError("sweep() returned no points")
  ordered = {
    each.name: each
    for point in by_name.values()
    for each in _lineage(point, by_name)
  }
  return list(ordered.values())


def chosen(points: Sequence[Point], pattern: str) -> list[Point]:
  """Returns the `checked` points whose names match, and those they need.

  Raises:
    ConfigError: no name matches the pattern, such as `scd_*_seed=0`.
  """
  by_name = {point.name: point for point in points}
  matching = [p for p in points if fnmatch.fnmatchcase(p.name, pattern)]
  if not matching:
    near = errors.hint(pattern, by_name)
    raise ConfigError(f"--only={pattern} matches no point of sweep(); {near}")
  wanted = {
    each.name for point in matching for each in _lineage(point, by_name)
  }
  return [point for point in points if point.name in wanted]


def _lineage(point: Point, by_name: Mapping[str, Point]) -> list[Point]:
  """Returns the points that a point needs, each before its own, and itself."""
  # Lists and no sets, so that the order is the same in every process.
  graph: dict[str, list[str]] = {}
  found = [point.name]
  for name in found:
    needs = by_name[name].needs
    graph[name] = list(dict.fromkeys(needs.values()))
    for field, other in needs.items():
      if other not in by_name:
        raise ConfigError(
          f"sweep(): the {field} of {name!r} is {other!r}, which is not among "
          "the points"
        )
      found += [] if other in found else [other]
  try:
    order = list(graphlib.TopologicalSorter(graph).static_order())
  except graphlib.CycleError as error:
    raise ConfigError(
      f"sweep(): {point.name!r} needs itself: {' <- '.join(error.args[1])}"
    ) from None
  return [by_name[name] for name in order]
