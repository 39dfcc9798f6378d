"""The points of a sweep: what a config file's `sweep()` yields.

    def sweep():
      teacher = Point("teacher", arg="run=teacher")
      students = points(
        grid({"objective.tangent_c": (0.03, 0.1, 0.3)}),
        arg="run=scd",
        teacher="teacher",
      )
      return seeds([teacher, *students], 3)

Overrides are flat: `{"optimizer.learning_rate": 1e-3}`. Everything here is a
pure function and imports nothing heavy, because config files use it.
"""

import dataclasses
import fnmatch
import itertools
import math
import random
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from scm_jax import spelling
from scm_jax.errors import ConfigError

Overrides = Mapping[str, Any]
Distribution = Callable[[random.Random], Any]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._=+-]*")
RESERVED = ("evaluation", "slurm")  # the sweep's own folders


@dataclasses.dataclass(frozen=True)
class Point:
  """One training, in a folder of its own, and how it is scored.

  Attributes:
    name: of its folder in the sweep's workdir.
    overrides: of the config's fields, flat.
    arg: for the config's `get_config`, such as `run=scd`.
    teacher: name of the point whose weights are its `config.teacher`.
    sampling: the ways in which it samples, each scored: flags of
      `scm-jax evaluate` such as `{"steps": (1, 2), "t_mid": 0.8}`. Sampling
      needs no training, so fields of `config.sample` are swept here.
    group: name shared by the points that differ in their seed alone; ""
      stands for `name`.
  """

  name: str
  overrides: Overrides = dataclasses.field(default_factory=dict)
  arg: str = ""
  teacher: str = ""
  sampling: tuple[Overrides, ...] = ({},)
  group: str = ""


def grid(fields: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
  """Every combination of the fields' values, the last field fastest."""
  return [
    dict(zip(fields, values, strict=True))
    for values in itertools.product(*fields.values())
  ]


def zipped(fields: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
  """The fields' first values together, then their second ones, ...

  Raises:
    ConfigError: the fields have different numbers of values.
  """
  counts = {field: len(values) for field, values in fields.items()}
  if len(set(counts.values())) > 1:
    raise ConfigError(f"zipped fields have different lengths: {counts}")
  columns = zip(*fields.values(), strict=True)
  return [dict(zip(fields, row, strict=True)) for row in columns]


def randomly(
  fields: Mapping[str, Distribution | Sequence[Any]], count: int, seed: int = 0
) -> list[dict[str, Any]]:
  """`count` independent draws; the same `seed` draws the same.

  Args:
    fields: for each a `uniform`, a `log_uniform` or the values to choose from.
    count: how many.
    seed: of the draws. A larger `count` only adds to those of a smaller one.
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
  """Uniform between two numbers, to four digits."""
  return lambda rng: _rounded(rng.uniform(low, high))


def log_uniform(low: float, high: float) -> Distribution:
  """Uniform in the logarithm between two positive numbers, to four digits."""
  return lambda rng: _rounded(
    math.exp(rng.uniform(math.log(low), math.log(high)))
  )


def _rounded(value: float) -> float:
  return float(f"{value:.4g}")


def points(
  overrides: Iterable[Overrides],
  *,
  arg: str = "",
  teacher: str = "",
  sampling: tuple[Overrides, ...] = ({},),
  prefix: str = "",
) -> list[Point]:
  """A point for each of some overrides, named after them: `P_mean=-1.0_c=0.1`.

  Args:
    overrides: such as `grid` makes.
    arg, teacher, sampling: as of `Point`, the same for all.
    prefix: what all names begin with.
  """
  return [
    Point(name(fields, prefix), fields, arg, teacher, sampling)
    for fields in overrides
  ]


def name(fields: Overrides, prefix: str = "") -> str:
  """A file name for overrides: the last parts of the fields, and values."""
  words = [prefix] if prefix else []
  for field, value in fields.items():
    text = re.sub(r"[^A-Za-z0-9.+-]+", "-", str(value)).strip("-,") or "none"
    sign = "-" if str(value).startswith("-") else ""
    words.append(f"{field.rpartition('.')[2]}={sign}{text}")
  return "_".join(words)


def seeds(points: Iterable[Point], which: int | Sequence[int]) -> list[Point]:
  """Every point with several seeds, each with the teacher of its own seed.

  Args:
    points: whose teachers, if any, are among them.
    which: the seeds, or how many.
  """
  points = list(points)
  numbers = range(which) if isinstance(which, int) else which
  return [
    dataclasses.replace(
      point,
      name=f"{point.name}_seed={seed}",
      overrides={**point.overrides, "seed": seed},
      teacher=point.teacher and f"{point.teacher}_seed={seed}",
      group=point.group or point.name,
    )
    for seed in numbers
    for point in points
  ]


def checked(points: Iterable[Point]) -> list[Point]:
  """The points, teachers before their students.

  Raises:
    ConfigError: no points, a name that is taken or makes no folder, a teacher
      that is no point, a circle of teachers, or a sampling field among the
      overrides.
  """
  by_name: dict[str, Point] = {}
  for point in points:
    if not isinstance(point, Point):
      raise ConfigError(f"sweep() gave {point!r}, which is not a Point")
    if not _NAME.fullmatch(point.name) or point.name in RESERVED:
      raise ConfigError(f"sweep(): {point.name!r} cannot be a run's folder")
    if point.name in by_name:
      raise ConfigError(f"sweep(): two points are named {point.name!r}")
    for field in point.overrides:
      if field.startswith("sample."):
        raise ConfigError(
          f"sweep(): {field} of {point.name!r} does not change the training; "
          f"give it as sampling=({{{field.partition('.')[2]!r}: ...}},)"
        )
    by_name[point.name] = point
  if not by_name:
    raise ConfigError("sweep() gave no points")
  ordered: dict[str, Point] = {}
  for point in by_name.values():
    for each in reversed(_chain(point, by_name)):
      ordered[each.name] = each
  return list(ordered.values())


def chosen(points: Sequence[Point], pattern: str) -> list[Point]:
  """The points whose names match a shell's pattern, and their teachers.

  Args:
    points: checked ones.
    pattern: such as `scd_*_seed=0`.

  Raises:
    ConfigError: none matches.
  """
  by_name = {point.name: point for point in points}
  matching = [p for p in points if fnmatch.fnmatchcase(p.name, pattern)]
  if not matching:
    near = spelling.hint(pattern, by_name)
    raise ConfigError(f"--only={pattern} matches no point; {near}")
  wanted = {each.name for point in matching for each in _chain(point, by_name)}
  return [point for point in points if point.name in wanted]


def _chain(point: Point, by_name: Mapping[str, Point]) -> list[Point]:
  """A point, its teacher, the teacher's teacher, ..."""
  chain = [point]
  while teacher := chain[-1].teacher:
    if teacher not in by_name:
      raise ConfigError(
        f"sweep(): {chain[-1].name!r} has the teacher {teacher!r}, which is no "
        "point"
      )
    if by_name[teacher] in chain:
      raise ConfigError(f"sweep(): {point.name!r} is its own teacher's teacher")
    chain.append(by_name[teacher])
  return chain
