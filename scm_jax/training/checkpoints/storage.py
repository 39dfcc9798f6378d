"""Saves and restores checkpoints with Orbax.

A checkpoint has two items: `train` (step, parameters, optimiser states) and
`ema` (the EMA weights, which are all that sampling needs). It becomes visible
whole or not at all. A damaged one is set aside, and the one before it is used.
"""

import contextlib
import logging
import os
import re
import shutil
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from jax.experimental import multihost_utils
from jax.sharding import SingleDeviceSharding

from scm_jax import files
from scm_jax.errors import UserError
from scm_jax.training.processes import startup
from scm_jax.training.step import Extra, TrainState

FOLDER, DAMAGED = "checkpoints", "checkpoints_damaged"


class Saver:
  """Saves steps with Orbax, in `path`, while the training goes on.

  Messages call a step's files `what`. A step before the newest one can be
  saved, too, if `any_order` is set.
  """

  what, any_order = "checkpoint", False

  def __init__(self, workdir: epath.PathLike, folder: str):
    # Orbax wants it absolute.
    self.path = epath.Path(files.absolute(workdir)) / folder
    self._manager: Any = None  # an ocp.CheckpointManager, once it is open
    self._saving, self._failed = 0, False
    # Processes wait for each other by names that Orbax makes of steps. Without
    # a prefix, a checkpoint and a snapshot of one step would share them.
    self._apart = ocp.options.MultiprocessingOptions(
      barrier_sync_key_prefix=folder
    )

  def wait(self) -> None:
    """Waits until the last save is on disk, and raises its error."""
    if self._manager is not None:
      self._guard(self._manager.wait_until_finished)

  def close(self) -> None:
    """Waits until the last save is on disk, and ends the threads."""
    try:
      self.wait()
    finally:
      # A save that failed before fails here again.
      again = (Exception,) if self._failed else ()
      with contextlib.suppress(*again):
        if self._manager is not None:
          self._manager.close()
      if self._failed:
        self._remove_partial()

  def good(self) -> str:
    """Returns a part of a message that names the last good step's folder."""
    self._manager.reload()
    if (step := self._manager.latest_step()) is None:
      return f"there is no good {self.what} yet"
    return f"the last good {self.what} is {self.path / str(step)}"

  def _save(self, step: int, **items: Any) -> None:
    """Starts saving trees by name; raises an error of the previous save."""
    self.wait()
    self._saving = step
    args = {k: ocp.args.StandardSave(tree) for k, tree in items.items()}
    args = ocp.args.Composite(**args)
    force = self.any_order
    self._guard(lambda: self._manager.save(step, args=args, force=force))

  def _guard(self, action: Callable[[], Any]) -> None:
    """Runs a part of a save; a failure removes its files and is one line."""
    try:
      action()
    except Exception as error:
      self._failed = True
      self._remove_partial()
      raise self._failure(error) from error

  def _failure(self, error: Exception) -> UserError:
    return UserError(
      f"saving the {self.what} of step {self._saving} in {self.path} failed "
      f"({one_line(error)}); {self.good()}; make room and run the same command "
      "again"
    )

  def _handler(self) -> ocp.StandardCheckpointHandler:
    """Returns what writes a tree.

    Where there are several processes, one that cannot write ends at once:
    Orbax would tell nobody until all the others have written, and those wait.
    """
    handler = ocp.StandardCheckpointHandler()
    if jax.process_count() == 1:
      return handler
    save, finalize = handler.async_save, handler.finalize

    def end(error: Exception) -> None:
      failure = self._failure(error)
      failure.__cause__ = error
      startup.end(failure)

    async def async_save(*args, **kwargs):
      writes = await save(*args, **kwargs)
      return [_Write(write.result, end) for write in writes or ()]

    handler.async_save = async_save
    handler.finalize = lambda *args: _Write(finalize, end).result(*args)
    return handler

  def _remove_partial(self) -> None:
    """Removes the files of a failed save, because others may need the room.

    What writes still under way leave is no checkpoint; the next run removes it.
    """
    if jax.process_index() == 0:
      for partial in self.path.glob(f"{self._saving}.*"):
        shutil.rmtree(partial, ignore_errors=True)


class _Write:
  """A write under way, of which a failure is reported before it is raised."""

  def __init__(self, run: Callable, report: Callable[[Exception], None]):
    self._run, self._report = run, report

  def result(self, *args: Any, **kwargs: Any) -> Any:
    try:
      return self._run(*args, **kwargs)
    except Exception as error:
      self._report(error)
      raise


class Checkpoints(Saver):
  """The checkpoints of one workdir."""

  def __init__(
    self,
    workdir: epath.PathLike,
    keep: int = 1,
    keep_every: int = 0,
    reading: bool = False,
  ):
    """Opens the folder, and makes it unless it is only read.

    The newest `keep` checkpoints are kept, and those whose step `keep_every`
    divides (0: none). A reader changes nothing, because a training may be
    writing there; otherwise half-written checkpoints of a killed one are
    removed.
    """
    super().__init__(workdir, FOLDER)
    self._options = ocp.CheckpointManagerOptions(
      max_to_keep=keep,
      keep_period=keep_every or None,
      cleanup_tmp_directories=not reading,
      create=not reading,
      multiprocessing_options=self._apart,
    )
    self._reading = reading
    self._manager = self._open()

  def _open(self) -> ocp.CheckpointManager:
    # Readers restore a part: one set of EMA weights of several.
    ema = ocp.PyTreeCheckpointHandler() if self._reading else self._handler()
    handlers = {"train": self._handler(), "ema": ema}
    return ocp.CheckpointManager(
      self.path, options=self._options, item_handlers=handlers
    )

  def save(self, state: TrainState) -> None:
    """Starts saving a state; raises an error of the previous save here."""
    self._save(int(state.step), train=_train_item(state), ema=state.ema)

  def save_ema(self, averages: dict[str, Any], step: int) -> None:
    """Starts saving EMA weights alone, which `restore_ema` reads."""
    self._save(step, ema=averages)

  def restore(self, like: TrainState) -> TrainState | None:
    """Restores the newest state that can be read.

    Args:
      like: a state of shapes and types (see `jax.eval_shape`). Leaves without
        a sharding are restored on the first device, wherever they were saved.

    Returns:
      The state, or None if there are no checkpoints.

    Raises:
      UserError: there are checkpoints, but none can be read.
    """
    args = {"train": _train_item(like), "ema": like.ema}
    steps = self._manager.all_steps()
    items = self._restore_newest(args, steps, set_aside=True)
    if items is None:
      return None
    extra = items["train"].pop("extra", {})
    extra = {name: Extra(**fields) for name, fields in extra.items()}
    return TrainState(**items["train"], ema=items["ema"], extra=extra)

  def restore_ema(
    self, like: dict[str, Any], step: int | None = None
  ) -> tuple[dict[str, Any], int]:
    """Returns EMA weights by name of a step, or of the newest that can be read.

    It returns the step, too. Nothing else is read, and nothing in the folder is
    changed. `like` has the shapes and types of the wanted EMA weights, by name,
    and the shardings in which they are read; by default on the first device.
    """
    steps = sorted(self._manager.all_steps())
    if step is not None and step not in steps:
      raise UserError(
        f"{self.path} has no checkpoint of step {step}; it has "
        f"{', '.join(map(str, steps)) or 'none'}"
      )
    steps = steps if step is None else [step]
    items = self._restore_newest({"ema": like}, steps, set_aside=False)
    if items is None:
      raise UserError(f"{self.path} has no checkpoint yet; train first")
    return items["ema"], items["at"]

  def _restore_newest(self, like, steps, set_aside):
    like = jax.tree.map(placed, like)
    damaged = []
    for step in sorted(steps, reverse=True):
      args = {name: self._restoring(tree) for name, tree in like.items()}
      args = ocp.args.Composite(**args)
      items, failed = {}, "another process cannot"
      try:
        items = dict(self._manager.restore(step, args=args).items())
        _check_read(items)
      except Exception as error:  # Orbax and TensorStore raise many kinds
        items, failed = {}, one_line(error)
      if _everywhere(bool(items)):
        if damaged and set_aside:
          self._set_aside(damaged)
        return items | {"at": step}
      file = self.path / str(step)
      logging.warning(
        f"checkpoint {file} cannot be read ({failed}); trying the one before"
      )
      damaged.append(step)
    if damaged:
      raise UserError(
        f"none of the checkpoints in {self.path} can be read (steps "
        f"{', '.join(map(str, damaged))}); move the folder away to start anew"
      )
    return None

  def _restoring(self, like: Any) -> Any:
    if not self._reading:
      return ocp.args.StandardRestore(like, support_layout=True)
    given = ocp.checkpoint_utils.construct_restore_args(like)
    return ocp.args.PyTreeRestore(
      like, restore_args=given, partial_restore=True
    )

  def _set_aside(self, steps) -> None:
    """Moves damaged checkpoints away, to free their steps for new saves."""
    folder = self.path.parent / DAMAGED
    self._manager.close()
    for step in steps if jax.process_index() == 0 else ():
      folder.mkdir(parents=True, exist_ok=True)
      target = folder / str(step)
      shutil.rmtree(target, ignore_errors=True)
      shutil.move(self.path / str(step), target)
      logging.warning("moved the damaged checkpoint to %s", target)
    _everywhere(True)  # the move precedes all processes' next look
    self._manager = self._open()


def _train_item(state: TrainState) -> dict[str, Any]:
  """Returns all that is saved of a state apart from the EMAs.

  A run without extra networks has no `extra`, as before there were any.
  """
  item = {
    "step": state.step,
    "params": state.params,
    "opt_state": state.opt_state,
  }
  extra = {
    name: {"params": extra.params, "opt_state": extra.opt_state}
    for name, extra in state.extra.items()
  }
  return item | ({"extra": extra} if extra else {})


def _everywhere(value: bool) -> bool:
  """Returns whether a value is true on all processes, once all have called."""
  if jax.process_count() == 1:
    return value
  return bool(multihost_utils.process_allgather(np.asarray(value)).all())


def _check_read(items: Any) -> None:
  """Raises KeyError for arrays that Orbax silently left out of a part."""
  for path, leaf in jax.tree.leaves_with_path(items):
    if not isinstance(leaf, jax.Array):
      raise KeyError(f"no {jax.tree_util.keystr(path)}")


def placed(leaf: Any) -> jax.ShapeDtypeStruct:
  """Returns the same shape and type, and layout if it has one, with a sharding.

  Orbax would otherwise look for the devices that the checkpoint was saved from.
  """
  if leaf.sharding:
    where = leaf.format
  else:
    where = SingleDeviceSharding(jax.local_devices()[0])
  return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where)


def one_line(error: Exception) -> str:
  """Returns the system's message of an error, or its text's first line."""
  text = str(error).strip()
  if isinstance(error, OSError) and error.strerror:
    return error.strerror
  # TensorStore names every layer and file first and the cause last.
  if number := re.search(r"os_error_code='(\d+)'", text):
    return os.strerror(int(number[1]))
  text, _, _ = text.partition(" See full TensorStore details")
  lines = text.splitlines() or [""]
  return f"{type(error).__name__}: {lines[0][:200]}"
