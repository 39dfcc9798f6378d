"""All writers of a run's metrics as one."""

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
from etils import epath

from scm_jax.errors import UserError
from scm_jax.training import workdir
from scm_jax.training.monitoring.jsonl_writer import JsonlWriter
from scm_jax.training.monitoring.tensorboard_writer import TensorBoardWriter

Writer = TensorBoardWriter | JsonlWriter


class MultiWriter:
  """Several writers as one, which are closed however a `with` block ends.

  All methods raise UserError if a file cannot be written.
  """

  def __init__(self, writers: Sequence[Writer]):
    self._writers = writers

  def write_scalars(self, step: int, scalars: Mapping[str, Any]) -> None:
    """Writes the scalars of a step, by name."""
    for writer in self._writers:
      writer.write_scalars(step, scalars)

  def write_images(self, step: int, images: Mapping[str, np.ndarray]) -> None:
    """Writes the images of a step by name, each uint8 [N, H, W, C]."""
    for writer in self._writers:
      writer.write_images(step, images)

  def flush(self) -> None:
    """Makes everything that was written readable by others."""
    for writer in self._writers:
      writer.flush()

  def __enter__(self) -> Self:
    return self

  def __exit__(self, kind: Any, *_: Any) -> None:
    """Closes all writers; their errors do not replace the block's own."""
    with contextlib.ExitStack() as stack:
      if kind is not None:
        stack.enter_context(contextlib.suppress(UserError))
      for writer in self._writers:
        stack.callback(writer.close)


def create(path: epath.Path, start_step: int) -> MultiWriter:
  """Returns the writers of a run.

  Args:
    path: the run's workdir.
    start_step: the number of updates after which the run begins or goes on.
  """
  lines = JsonlWriter(path / workdir.METRICS, start_step)
  return MultiWriter([TensorBoardWriter(path), lines])


def nowhere() -> MultiWriter:
  """Returns the writer of all processes but the first: it writes nothing."""
  return MultiWriter([])
