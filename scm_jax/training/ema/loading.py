"""Any average of a run: read, or reconstructed from those that were stored."""

import functools
import logging
from collections.abc import Callable
from typing import Any, NamedTuple

from etils import epath

from scm_jax.errors import ConfigError, UserError
from scm_jax.training.checkpoints import storage
from scm_jax.training.ema import averaging, posthoc, snapshots

# A fit that misses more of the profile than this is worth a warning.
POOR_FIT = 0.1


class Average(NamedTuple):
  """The averaged parameters, as stored or fitted, and where they come from.

  Attributes:
    params: not yet on the weights' sphere (see `build.model`).
    step: of the run.
    error: of the fit (see `posthoc.error`); None if it was read.
  """

  params: Any
  step: int
  error: float | None


class _Stored(NamedTuple):
  """An average that a file holds."""

  step: int
  width: float
  load: Callable[[], Any]


def load(
  path: epath.PathLike,
  config: Any,
  average: float,
  like: Any,
  step: int | None = None,
) -> Average:
  """An average of a workdir, at one of its checkpoints.

  Args:
    path: the workdir.
    config: its config.
    average: see `ema`; a relative width that the run does not keep is
      reconstructed, if there are snapshots.
    like: shapes and types of the parameters, and the shardings in which they
      are read and fitted; without, on the first device.
    step: of the checkpoint; None is the newest that can be read.

  Raises:
    UserError: no such checkpoint, or no such average and no snapshots.
    ConfigError: a number that can name no average.
  """
  name, names = averaging.name(average), [averaging.name(a) for a in config.ema]
  if name not in names:
    if average >= 1 or not snapshots.steps(path):
      raise UserError(
        f"{path} keeps no average of width {average:g}; it has "
        f"{', '.join(names)}, and no snapshots to reconstruct it from"
      )
    return reconstruct(path, config, average, like, step)
  kept, step = _read(path, name, like, step)
  return Average(kept, step, None)


def reconstruct(
  path: epath.PathLike,
  config: Any,
  width: float,
  like: Any,
  step: int | None = None,
) -> Average:
  """The best fit of a width by the snapshots and the newest checkpoint.

  Says in one line of the log what was done, and how well it fits.

  Args:
    path: the workdir.
    config: its config.
    width: relative, `sigma_rel`.
    like: shapes and types of the parameters, and the shardings as in `load`.
    step: at which; None is the newest checkpoint's.

  Raises:
    UserError: nothing is stored up to that step, or it cannot be read.
    ConfigError: a number that can be no width.
  """
  averaging.check_average(width)
  if width >= 1:
    raise ConfigError(f"a half-life cannot be reconstructed: {width:g} images")
  steps = snapshots.steps(path)
  if not steps:
    raise UserError(
      f"{path} has no snapshots; train with config.snapshot_every"
    )
  stored, newest = _stored(path, config, like, steps)
  step = newest if step is None else step
  stored = [s for s in stored if s.step <= step]
  if not stored or step > newest:
    raise UserError(
      f"{path} has no averages of step {step}: its snapshots begin at step "
      f"{steps[0]}, its newest checkpoint is of step {newest}"
    )
  times = [s.step for s in stored]
  fit = (
    times,
    [averaging.gamma(s.width) for s in stored],
    step,
    averaging.gamma(width),
  )
  coefficients = posthoc.solve(*fit)
  error = posthoc.error(coefficients, *fit)
  logging.log(
    logging.WARNING if error > POOR_FIT else logging.INFO,
    "reconstructing the average of width %s at step %d from %d stored ones "
    "(steps %d to %d); the fit misses %.2g %% of its profile",
    *(
      averaging.name(width),
      step,
      len(stored),
      times[0],
      times[-1],
      100 * error,
    ),
  )
  params = posthoc.combine(coefficients.tolist(), [s.load for s in stored])
  return Average(params, step, error)


def _stored(path, config, like, steps) -> tuple[list[_Stored], int]:
  """The averages to fit with, by time, and the newest checkpoint's step."""
  widths = averaging.widths(config)
  # Which of the checkpoints can be read is known once one of them has been.
  newest = _read(path, averaging.name(widths[0]), like)[1]

  def from_snapshot(step, width):
    return snapshots.load(path, step, averaging.name(width), like)

  def from_checkpoint(step, width):
    params, found = _read(path, averaging.name(width), like)
    if found != step:
      raise UserError(
        f"{path} was given the checkpoint of step {found} while that of step "
        f"{step} was read; run the same command again"
      )
    return params

  # The checkpoint's own averages are those of a snapshot there, not rounded.
  sources = [(s, from_snapshot) for s in steps if s < newest]
  sources.append((newest, from_checkpoint))
  stored = [
    _Stored(step, width, functools.partial(read, step, width))
    for step, read in sources
    for width in widths
  ]
  return stored, newest


def _read(path, name, like, step=None) -> tuple[Any, int]:
  if not (epath.Path(path) / storage.FOLDER).exists():
    raise UserError(f"{path} has no checkpoint yet; train first")
  checkpoints = storage.Checkpoints(path, reading=True)
  try:
    averages, step = checkpoints.restore_ema({name: like}, step)
  finally:
    checkpoints.close()
  return averages[name], step
