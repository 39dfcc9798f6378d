"""Snapshots: the power-function EMAs as they were at many steps of a run.

`posthoc` makes EMAs of other widths from them. A snapshot is a step's folder in
`snapshots/` with one item for each width, so that one can be read alone. Orbax
writes them as it does checkpoints. None is ever removed.
"""

from collections.abc import Sequence
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
  ):
    """Prepares a snapshot of some EMAs `every` so many steps; 0 for none.

    The EMAs are those of the `names`, and are stored as `dtype`.
    """
    super().__init__(workdir, FOLDER)
    self._every, self._names = every, tuple(names)
    self._cast = jax.jit(
      lambda tree: jax.tree.map(lambda x: x.astype(dtype), tree)
    )

  def due(self, step: int) -> bool:
    """Returns whether a snapshot is to be made of this step."""
    return bool(self._every) and step > 0 and step % self._every == 0

  def save(self, step: int, emas: dict[str, Any]) -> None:
    """Starts to save a snapshot of the EMAs, unless the step has one already.

    A run that was killed computes some steps again, to the same bits. If this
    save or the one before fails, nothing of it stays.
    """
    self.wait()
    if self._manager is None:
      options = ocp.CheckpointManagerOptions(cleanup_tmp_directories=True)
      self._manager = ocp.CheckpointManager(self.path, options=options)
    if step not in self._manager.all_steps():
      kept = offload.fetch({name: emas[name] for name in self._names})
      self._save(step, **self._cast(kept))


def steps(workdir: epath.PathLike) -> list[int]:
  """Returns the steps of all complete snapshots, in order."""
  path = epath.Path(files.absolute(workdir)) / FOLDER
  if not path.exists():
    return []
  options = ocp.CheckpointManagerOptions(create=False)
  with ocp.CheckpointManager(path, options=options) as manager:
    return sorted(manager.all_steps())


def load(workdir: epath.PathLike, step: int, name: str, like: Any) -> Any:
  """Loads one EMA, by its name, of one of the snapshots in `steps`.

  `like` has the EMA's shapes, the types to which it is converted, and its
  shardings; without shardings, it is on the first device.
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
