"""Snapshots: the power-function EMAs as they were at many steps of a run.

`posthoc` makes EMAs of other widths from them. A snapshot is a step's folder in
`snapshots/` with one item for each width, so that one can be read alone. Orbax
writes them as it does checkpoints: from sharded arrays, while the training goes
on, and visible whole or not at all. None is ever removed.
"""

import shutil
from collections.abc import Callable, Sequence
from typing import Any

import jax
import orbax.checkpoint as ocp
from etils import epath

from scm_jax import files
from scm_jax.errors import UserError
from scm_jax.training import offload
from scm_jax.training.checkpoints.storage import one_line, placed

FOLDER = "snapshots"


class Snapshots:
  """The writer of a workdir's snapshots."""

  def __init__(
    self,
    workdir: epath.PathLike,
    every: int = 0,
    names: Sequence[str] = (),
    dtype: str = "float32",
  ):
    """Prepares; nothing is created or changed before a `save`.

    Args:
      workdir: the run's workdir.
      every: the number of steps between two snapshots; 0 for no snapshots.
      names: the names of the EMAs that are kept (see `averaging.name`).
      dtype: the type in which they are stored.
    """
    # Orbax wants an absolute path.
    self.path = epath.Path(files.absolute(workdir)) / FOLDER
    self._every, self._names = every, tuple(names)
    self._cast = jax.jit(
      lambda tree: jax.tree.map(lambda x: x.astype(dtype), tree)
    )
    self._writer: ocp.CheckpointManager | None = None
    self._saving = 0

  def due(self, step: int) -> bool:
    """Returns whether a snapshot is to be made of this step."""
    return bool(self._every) and step > 0 and step % self._every == 0

  def save(self, step: int, emas: dict[str, Any]) -> None:
    """Starts to save a snapshot, unless the step has one already.

    A run that was killed computes some steps again, to the same bits.

    Args:
      step: the number of updates done.
      emas: all EMAs of the train state, by name.

    Raises:
      UserError: this save or the one before failed; nothing of it stays.
    """
    self.wait()
    if step in self._open().all_steps():
      return
    self._saving = step
    kept = {name: emas[name] for name in self._names}
    kept = self._cast(offload.fetch(kept))
    items = {name: ocp.args.StandardSave(tree) for name, tree in kept.items()}
    args = ocp.args.Composite(**items)
    # By itself, Orbax would pass over a step before the newest one.
    self._guard(lambda: self._open().save(step, args=args, force=True))

  def wait(self) -> None:
    """Waits until the last snapshot is on disk, and raises its errors."""
    if self._writer is not None:
      self._guard(self._writer.wait_until_finished)

  def close(self) -> None:
    """Waits like `wait`, and ends the writer's threads."""
    try:
      self.wait()
    finally:
      if self._writer is not None:
        self._writer.close()

  def _open(self) -> ocp.CheckpointManager:
    if self._writer is None:
      options = ocp.CheckpointManagerOptions(
        enable_async_checkpointing=True, cleanup_tmp_directories=True
      )
      self._writer = ocp.CheckpointManager(self.path, options=options)
    return self._writer

  def _guard(self, action: Callable[[], Any]) -> None:
    """Runs a part of a save; if it fails, removes what it wrote and raises."""
    try:
      action()
    except Exception as error:
      for partial in self.path.glob(f"{self._saving}.*"):
        shutil.rmtree(partial, ignore_errors=True)
      raise UserError(
        f"saving the snapshot of step {self._saving} in {self.path} failed "
        f"({one_line(error)}); make room and run the same command again"
      ) from error


def steps(workdir: epath.PathLike) -> list[int]:
  """Returns the steps of all complete snapshots, in order."""
  path = epath.Path(files.absolute(workdir)) / FOLDER
  if not path.exists():
    return []
  options = ocp.CheckpointManagerOptions(create=False)
  with ocp.CheckpointManager(path, options=options) as manager:
    return sorted(manager.all_steps())


def load(workdir: epath.PathLike, step: int, name: str, like: Any) -> Any:
  """Loads one EMA of one snapshot.

  Args:
    workdir: the run's workdir.
    step: the snapshot's step, one of `steps`.
    name: the EMA's name (see `averaging.name`).
    like: the EMA's shapes, the types to which it is converted, and its
      shardings; without shardings, it is on the first device.

  Raises:
    UserError: it cannot be read.
  """
  folder = epath.Path(files.absolute(workdir)) / FOLDER / str(step) / name
  try:
    with ocp.StandardCheckpointer() as reader:
      return reader.restore(folder, jax.tree.map(placed, like))
  except Exception as error:  # Orbax and TensorStore raise many kinds
    raise UserError(
      f"the snapshot {folder} cannot be read ({one_line(error)}); move "
      f"{folder.parent} away to do without it"
    ) from error
