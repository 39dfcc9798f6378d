"""A sweep's runs: a folder and a command for each point, and how far they are.

What is on disk is the only memory: a run is finished when its newest
checkpoint is its last, and has failed when it left `failed.json`.
"""

import dataclasses
import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from etils import epath

from scm_jax import files
from scm_jax.errors import ConfigError
from scm_jax.sweeping.points import Overrides, Point

FAILED, LOG = "failed.json", "train.log"


@dataclasses.dataclass(frozen=True, eq=False)
class Run:
  """A point, resolved.

  Attributes:
    point: what it is of.
    config: the resolved config, a ConfigDict.
    flags: the config's flags of `scm-jax train`, its teacher's included.
    folder: its workdir.
  """

  point: Point
  config: Any
  flags: tuple[str, ...]
  folder: epath.Path

  @property
  def name(self) -> str:
    return self.point.name

  @property
  def train(self) -> list[str]:
    """The arguments of the training, after `scm-jax`."""
    return ["train", *self.flags, f"--workdir={self.folder}"]

  @property
  def step(self) -> int:
    """Of the newest complete checkpoint; 0 is none."""
    folder = self.folder / "checkpoints"
    if not folder.exists():
      return 0
    # Those being written have longer names.
    names = (path.name for path in folder.iterdir())
    return max((int(name) for name in names if name.isdigit()), default=0)

  @property
  def finished(self) -> bool:
    return self.step >= self.config.total_steps

  @property
  def failure(self) -> str | None:
    """The last line of a run that failed."""
    file = self.folder / FAILED
    return json.loads(file.read_text())["line"] if file.exists() else None

  def fail(self, line: str) -> None:
    """Writes down that the run failed, and its last line."""
    files.write_text(self.folder / FAILED, json.dumps({"line": line}) + "\n")

  def forgive(self) -> None:
    """Forgets a failure, when the run is tried again."""
    (self.folder / FAILED).unlink(missing_ok=True)


def resolve(
  points: Sequence[Point],
  target: str,
  overrides: Overrides,
  folder: epath.Path,
  parse: Callable[[list[str]], Any],
) -> list[Run]:
  """The runs of checked points, in their order.

  Args:
    points: as `points.checked` gives them.
    target: `FILE[:ARG]`, the sweep's `--config`; a point's `arg` precedes ARG.
    overrides: `--config.KEY=VALUE` of the command line, for all points.
    folder: the sweep's workdir.
    parse: from a config's flags to the resolved config.

  Raises:
    ConfigError: a point's config does not resolve, its workdir belongs to
      another, or the command line sets what the sweep sets.
  """
  file, _, arg = target.partition(":")
  runs = []
  for point in points:
    both = [field for field in overrides if field in point.overrides]
    if both:
      raise ConfigError(f"--config.{both[0]}: the sweep itself sets it")
    words = ",".join(filter(None, (point.arg, arg)))
    fields = {**overrides, **point.overrides}
    if point.teacher:
      fields["teacher"] = str(folder / point.teacher)
    flags = [f"--config={file}:{words}" if words else f"--config={file}"]
    flags += [f"--config.{key}={shown(v)}" for key, v in fields.items()]
    try:
      config = parse(flags)
    except ConfigError as error:
      raise ConfigError(f"point {point.name!r}: {error}") from None
    runs.append(Run(point, config, tuple(flags), folder / point.name))
  return runs


def check_same(runs: Iterable[Run]) -> None:
  """Raises ConfigError for a workdir that holds another config's run."""
  from scm_jax.training import workdir

  for run in runs:
    if (run.folder / workdir.CONFIG).exists():
      workdir.check_same(
        workdir.load_config(run.folder), run.config, run.folder
      )


def shown(value: Any) -> str:
  """A value as a flag has it."""
  if isinstance(value, bool):
    return str(value).lower()
  if isinstance(value, tuple | list):
    return "(" + "".join(f"{item!r}," for item in value) + ")"
  return str(value)
