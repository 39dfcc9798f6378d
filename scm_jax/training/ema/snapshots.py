"""Snapshots: the EMAs as they were at many steps of a run.

`posthoc` makes EMAs of other widths from the power-function EMAs among them,
and a snapshot of an early step is a weak network that guides the finished one.
A snapshot is a step's folder in `snapshots/` with one item for each EMA, so
that one can be read alone. Orbax writes them as it does checkpoints. None is
ever removed.
"""

from collections.abc import Collection, Sequence
from typing import Any

import jax
import orbax.checkpoint as ocp
from etils import epath

from scm_jax import files
from scm_jax.errors import UserError
from scm_jax.training import offload
from scm_jax.training.checkpoints.storage import Saver, one_line, placed

FOLDER = "snapshots"


class Snapshots(Saver):
  """The writer of a workdir's snapshots, which makes nothing before a save."""

  what, any_order = "snapshot", True

  def __init__(
    self,
    workdir: epath.PathLike,
    every: int = 0,
    names: Sequence[str] = (),
    dtype: str = "float32",
    at: Collection[int] = (),
  ):
    """Prepares snapshots, which are stored as `dtype`.

    Every `every` steps (0: none), the EMAs of the `names` are stored; at the
    steps `at`, all of them.
    """
    super().__init__(workdir, FOLDER)
    self._every, self._names, self._at = every, tuple(names), frozenset(at)
    self._cast = jax.jit(
      lambda tree: jax.tree.map(lambda x: x.astype(dtype), tree)
    )

  def due(self, step: int) -> bool:
    """Returns whether a snapshot is to be made of this step."""
    regular = bool(self._every) and step > 0 and step % self._every == 0
    return regular or step in self._at

  def save(self, step: int, emas: dict[str, Any]) -> None:
    """Starts to save a snapshot of the EMAs, unless the step has one already.

    A run that was killed computes some steps again, to the same bits. If this
    save or the one before fails, nothing of it stays.
    """
    self.wait()
    if self._manager is None:
      options = ocp.CheckpointManagerOptions(
        cleanup_tmp_directories=True, multiprocessing_options=self._apart
      )
      self._manager = ocp.CheckpointManager(
        self.path,
        options=options,
        item_handlers={name: self._handler() for name in emas},
      )
    if step not in self._manager.all_steps():
      names = emas if step in self._at else self._names
      kept = offload.fetch({name: emas[name] for name in names})
      self._save(step, **self._cast(kept))


def steps(workdir: epath.PathLike) -> list[int]:
  """Returns the steps of all complete snapshots, in order."""
  path = epath.Path(files.absolute(workdir)) / FOLDER
  if not path.exists():
    return []
  options = ocp.CheckpointManagerOptions(create=False)
  with ocp.CheckpointManager(path, options=options) as manager:
    return sorted(manager.all_steps())


def holds(workdir: epath.PathLike, step: int, name: str) -> bool:
  """Returns whether the snapshot of a step has the EMA of that name."""
  return _item(workdir, step, name).exists()


def _item(workdir: epath.PathLike, step: int, name: str) -> epath.Path:
  return epath.Path(files.absolute(workdir)) / FOLDER / str(step) / name


def load(workdir: epath.PathLike, step: int, name: str, like: Any) -> Any:
  """Loads one EMA, by its name, of one of the snapshots in `steps`.

  `like` has the EMA's shapes, the types to which it is converted, and its
  shardings; without shardings, it is on the first device.
  """
  folder = _item(workdir, step, name)
  try:
    with ocp.StandardCheckpointer() as reader:
      return reader.restore(folder, jax.tree.map(placed, like))
  except Exception as error:  # Orbax and TensorStore raise many kinds
    raise UserError(
      f"the snapshot {folder} cannot be read ({one_line(error)}); move "
      f"{folder.parent} away to do without it"
    ) from error
