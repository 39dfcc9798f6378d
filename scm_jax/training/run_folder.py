"""The workdir of a run that trains: whose it is, and what it still owes."""

import json
import logging
from collections.abc import Sequence

import jax
from etils import epath
from ml_collections import ConfigDict

from scm_jax import configuration, errors, files
from scm_jax.errors import ConfigError, UserError
from scm_jax.interop import export_folder
from scm_jax.training.checkpoints import storage
from scm_jax.training.workdir import (
  CONFIG,
  ORIGIN,
  at_checkpoint,
  load_config,
)

CLASSES = "classes.json"  # the names of the data's classes, by label
OWED = "owed.json"  # the step whose samples or scores failed
ORIGINS = ("start", "teacher")  # fields that say where weights came from


def open_for(config: ConfigDict, folder: str) -> epath.Path:
  """Makes a workdir for a run, or checks that it belongs to this run.

  Raises:
    ConfigError: the folder is an export, or belongs to another config; the
      message says what differs.
    UserError: the folder cannot be written.
  """
  path = epath.Path(files.absolute(folder))
  with files.writing(path):
    if (path / ORIGIN).exists():
      raise ConfigError(
        f"{path} holds imported or reconstructed weights, not a run; choose "
        "another --workdir"
      )
    if export_folder.description(path):
      raise ConfigError(f"{path} is an export; choose another --workdir")
    path.mkdir(parents=True, exist_ok=True)
    if (path / CONFIG).exists():
      check_same(load_config(path), config, path)
    elif _has_checkpoints(path):
      raise ConfigError(
        f"the workdir {path} has checkpoints but no {CONFIG}, so that nobody "
        "knows what they are of; restore the file, or choose another --workdir"
      )
  return path


def write_config(
  path: epath.Path, config: ConfigDict, step: int | None = None
) -> None:
  """Writes the resolved config; from then on the workdir is this run's.

  A run that goes on from a checkpoint of a `step` need not name again where it
  began: what the workdir's config says of that is kept.

  Raises:
    UserError: the config cannot be written.
  """
  config = config.copy_and_resolve_references()
  if step is not None and (path / CONFIG).exists():
    begun = load_config(path)
    _remark_on_length(begun, config, step)
    for field in ORIGINS:
      config[field] = config[field] or begun[field]
    if config.start and files.absolute(config.start) != files.absolute(
      begun.start
    ):
      logging.warning(
        f"config.start={config.start} has no effect: the run in {path} goes on "
        f"from its own checkpoint, and began from {begun.start}"
      )
    config.start = begun.start
  files.write_text(path / CONFIG, configuration.to_json(config))


def _remark_on_length(old: ConfigDict, new: ConfigDict, step: int) -> None:
  """Warns if a run's new length moves a cooldown that has begun."""
  lengths, part = (old.total_steps, new.total_steps), new.optimizer.cooldown
  if min(lengths) != max(lengths) and step > (1 - part) * min(lengths):
    logging.warning(
      f"config.total_steps was {lengths[0]} and is {lengths[1]} now: step "
      f"{step} is in the last {part:.0%} of the shorter run, in which the "
      "learning rate falls to 0. It begins to fall elsewhere now, so that this "
      "is not the run that it would have been from its start; give another "
      "--workdir to train that"
    )


def keep_classes(
  folder: str,
  names: Sequence[str],
  begun: bool,
  origins: Sequence[str] = (),
) -> None:
  """Keeps the names of the classes that the labels of a run's data stand for.

  A run that has `begun` goes on with the same. The `origins`, from which one
  that begins takes weights, may have other names for the same classes, so that
  a difference is only said.

  Raises:
    ConfigError: the run began with other classes.
    UserError: the names cannot be read or written.
  """
  path = epath.Path(files.absolute(folder)) / CLASSES
  if begun:
    if difference := _difference(_classes(path), names):
      raise ConfigError(
        f"the run in {path.parent} began with other classes: {difference}; go "
        "on with its dataset, choose another --workdir, or, if only names have "
        f"changed, delete {path}"
      )
    return
  for origin in origins:
    other, _ = at_checkpoint(origin)
    if difference := _difference(_classes(other / CLASSES), names):
      logging.warning(
        f"labels may mean other classes to the network of {origin}: "
        f"{difference} here"
      )
  if names and jax.process_index() == 0:
    files.write_text(path, json.dumps([*names]) + "\n")


def _classes(path: epath.Path) -> list[str]:
  """Returns the names that a run keeps; none if it does not say."""
  if not path.exists():
    return []
  with errors.reading(path):
    return [str(name) for name in json.loads(path.read_text())]


def _difference(old: Sequence[str], new: Sequence[str]) -> str:
  """Returns how classes differ as a part of a message; "" if they do not."""
  if not old or not new or [*old] == [*new]:
    return ""
  if len(old) != len(new):
    return f"there were {len(old)}, and there are {len(new)}"
  pairs = enumerate(zip(old, new, strict=True))
  label, (was, now) = next(pair for pair in pairs if len({*pair[1]}) > 1)
  return f"label {label} was {was!r} and is {now!r}"


def check_present(path: epath.Path) -> None:
  """Raises UserError if the workdir was removed while its run trained."""
  if jax.process_index() == 0 and not (path / CONFIG).exists():
    raise UserError(
      f"{path / CONFIG} is gone: the workdir was removed while its run "
      "trained; the run ends without saving"
    )


def owe(path: epath.Path, step: int | None) -> None:
  """Notes that the samples and scores of a saved step failed; None: no more."""
  if step is None:
    (path / OWED).unlink(missing_ok=True)
  else:
    files.write_text(path / OWED, json.dumps({"step": step}) + "\n")


def owes(path: epath.Path, step: int) -> bool:
  """Returns whether the samples or scores of a saved step failed.

  A file that does not say which step's, because it is damaged, means this one.
  """
  try:
    return json.loads((path / OWED).read_text())["step"] == step
  except OSError:
    return False
  except (ValueError, KeyError, TypeError):
    return True


def check_same(
  old: ConfigDict,
  new: ConfigDict,
  path: epath.Path,
  advice: str = "",
) -> None:
  """Raises ConfigError unless a run in `path` may go on with another config.

  The message ends with the advice; "" is to choose another workdir.
  """
  differences = [
    line
    for line in configuration.diff(old, new)
    if not configuration.may_change(line.partition(":")[0])
  ]
  if differences:
    # The run and its seed before the details of groups.
    differences.sort(key=lambda line: "." in line.partition(":")[0])
    shown, rest = differences[:4], len(differences[4:])
    if rest:
      shown.append(f"and {rest} more")
    if not advice:
      advice = "choose another --workdir"
      if _has_checkpoints(path):
        start = f"--config.start={path}"
        advice += f", and add {start} to begin with these weights"
    raise ConfigError(
      f"the workdir {path} belongs to another config ({'; '.join(shown)}); "
      + advice
    )
  if not _has_checkpoints(path):
    return  # it has no weights yet
  for field in ORIGINS:
    if new[field] and not old[field]:
      raise ConfigError(
        f"the run in {path} began without config.{field}, so that its weights "
        f"are not of {new[field]}; leave it out, or choose another --workdir"
      )


def _has_checkpoints(path: epath.Path) -> bool:
  steps = (p.name for p in (path / storage.FOLDER).glob("*"))
  return any(map(str.isdigit, steps))
