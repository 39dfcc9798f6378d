"""The runs of a sweep: a folder and a command for each point.

A run's state is read from its folder: it is finished when it has the checkpoint
of its last step, and has failed when it has `failed.json`.
"""

import dataclasses
import json
import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from etils import epath

from scm_jax import configuration, errors, files
from scm_jax.errors import ConfigError
from scm_jax.sweeping.points import Overrides, Point

FAILED, LOG, SCORES = "failed.json", "train.log", "scores.json"
OWED = "owed.json"  # written by the training itself


@dataclasses.dataclass(frozen=True, eq=False)
class Run:
  """The training of a point.

  Attributes:
    point: the point.
    config: its resolved config, a ConfigDict.
    flags: the config's flags for `scm-jax train`, with the teacher's folder.
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
  def needs(self) -> tuple[str, ...]:
    """Returns the names of the runs that must be trained before."""
    return tuple(self.point.needs.values())

  @property
  def train(self) -> list[str]:
    """Returns the training's arguments after `scm-jax`."""
    return ["train", *self.flags, f"--workdir={self.folder}"]

  @property
  def step(self) -> int:
    """Returns the step of the newest complete checkpoint, 0 without any."""
    return max(files.saved_steps(self.folder / "checkpoints"), default=0)

  @property
  def finished(self) -> bool:
    """Returns whether the run has its last checkpoint, and owes nothing."""
    return self.step >= self.config.total_steps and not self.owes

  @property
  def owes(self) -> bool:
    """Returns whether samples or scores of a saved step failed."""
    return (self.folder / OWED).exists()

  @property
  def failure(self) -> str | None:
    """Returns the last line of a run that failed, else None."""
    file = self.folder / FAILED
    if not file.exists():
      return None
    try:
      return json.loads(file.read_text())["line"]
    except (ValueError, TypeError, KeyError):
      return f"{file} is damaged"

  def record_failure(self, line: str) -> None:
    """Records that the run failed, with the last line of its output."""
    files.write_text(self.folder / FAILED, json.dumps({"line": line}) + "\n")

  def clear_failure(self) -> None:
    """Removes the record of a failure, so that the run is tried again."""
    (self.folder / FAILED).unlink(missing_ok=True)


def resolve(
  points: Sequence[Point],
  target: str,
  overrides: Overrides,
  folder: epath.Path,
  parse: Callable[[list[str]], Any],
) -> list[Run]:
  """Returns the runs of points that `points.checked` returned, in their order.

  Args:
    points: the points.
    target: the sweep's `--config`, `FILE[:ARG]`; a point's `arg` precedes ARG.
    overrides: the command line's `--config.KEY=VALUE`, for all points.
    folder: the sweep's workdir.
    parse: a function from a config's flags to the resolved config.

  Raises:
    ConfigError: a point's config does not resolve, or the command line sets a
      field that the sweep sets.
  """
  file, _, arg = target.partition(":")
  runs = []
  for point in points:
    if both := [field for field in overrides if field in point.overrides]:
      raise ConfigError(
        f"--config.{both[0]}: the sweep sets this field of {point.name!r}; "
        "leave the flag out"
      )
    words = ",".join(filter(None, (point.arg, arg)))
    fields = {**overrides, **point.overrides}
    fields |= {field: str(folder / n) for field, n in point.needs.items()}
    flags = [f"--config={file}:{words}" if words else f"--config={file}"]
    flags += [f"--config.{key}={flag_value(v)}" for key, v in fields.items()]
    try:
      config = parse(flags)
    except ConfigError as error:
      raise ConfigError(f"point {point.name!r}: {error}") from None
    runs.append(Run(point, config, tuple(flags), folder / point.name))
  return runs


def reconcile(runs: Iterable[Run], write: bool = True) -> None:
  """Checks that the workdirs are these runs', and gives them their sampling.

  Runs are scored by the config that lies in their folder. Where its `sample`,
  its reference or its autoencoder is not the sweep's any more, a finished run
  takes the sweep's and loses its scores, so that it is scored again; others
  take it when they go on. Without `write`, this is only said.

  Raises:
    ConfigError: a workdir holds the run of another config, one that is longer
      than the sweep's, or a finished run of another teacher.
  """
  from scm_jax.training import run_folder, workdir

  named = {run.name: run for run in runs}
  found = [
    (run, workdir.load_config(run.folder))
    for run in named.values()
    if (run.folder / workdir.CONFIG).exists()
  ]
  for run, known in found:
    advice = "choose another --workdir"
    run_folder.check_same(known, run.config, run.folder, advice)
    if run.step > run.config.total_steps:
      raise ConfigError(
        f"{run.folder} is at step {run.step}, and the sweep ends at step "
        f"{run.config.total_steps}; choose another --workdir, so that runs "
        "that are compared are equally long"
      )
    _check_origins(run, known)
    _check_teacher(run, named)
  for run, known in found:
    new = known.copy_and_resolve_references()
    new.sample = run.config.sample
    new.evaluate.reference = run.config.evaluate.reference
    new.data.autoencoder = run.config.data.autoencoder
    changes = configuration.diff(known, new)
    if changes and run.finished:
      logging.info("%s is scored anew: %s", run.name, "; ".join(changes))
      if write:
        (run.folder / SCORES).unlink(missing_ok=True)
        run_folder.write_config(run.folder, new)


def _check_origins(run: Run, known: Any) -> None:
  """Raises ConfigError for a finished run of another teacher, guide or start.

  Folders may have moved, so that their names alone are compared. A run that
  goes on compares its teacher's weights.
  """
  name = lambda folder: os.path.basename(folder.rstrip("/"))
  for field in ("teacher", "guide", "start"):
    old, new = known[field], run.config[field]
    named = new or field == "guide"  # where a run began need not be said again
    if run.finished and named and name(old) != name(new):
      raise ConfigError(
        f"{run.folder} is finished with config.{field}={old!r}, and the sweep "
        f"has {new!r}; choose another --workdir, or delete the folder"
      )


def _check_teacher(run: Run, others: Mapping[str, Run]) -> None:
  """Raises ConfigError for a finished run whose teacher goes on after it."""
  from scm_jax.training import workdir

  file = run.folder / workdir.TEACHER
  if not (run.finished and file.exists()):
    return
  with errors.reading(file):
    seen = json.loads(file.read_text())
    steps = {"teacher": seen["step"]}
    if "guide" in seen:
      steps["guide"] = seen["guide"]["step"]
  for field, step in steps.items():
    source = others.get(run.point.needs.get(field, ""))
    if source and step != source.config.total_steps:
      raise ConfigError(
        f"{run.folder} is finished, and its {field} was {source.name} at step "
        f"{step}, which the sweep trains until step "
        f"{source.config.total_steps}; choose another --workdir, or delete the "
        "folder"
      )


def flag_value(value: Any) -> str:
  """Returns a value as it is written in a flag."""
  if isinstance(value, bool):
    return str(value).lower()
  if isinstance(value, tuple | list):
    return "(" + "".join(f"{item!r}," for item in value) + ")"
  return str(value)
