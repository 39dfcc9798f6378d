"""Loads an EMA of a run: reads it, or reconstructs it from the stored ones."""

import contextlib
import functools
import itertools
import logging
from collections.abc import Callable
from typing import Any, NamedTuple

from etils import epath

from scm_jax.defaults import Run
from scm_jax.errors import ConfigError, UserError
from scm_jax.training.checkpoints import storage
from scm_jax.training.ema import averaging, posthoc, snapshots

# A fit whose error (see `posthoc.fit_error`) is larger is worth a warning.
POOR_FIT = 0.1


class LoadedEma(NamedTuple):
  """An EMA of a run's parameters.

  Attributes:
    params: the averaged parameters, as stored or fitted; the network's weight
      constraint is not yet applied.
    step: the step at which the EMA was taken.
    fit_error: the error of the reconstruction; None if the EMA was read.
  """

  params: Any
  step: int
  fit_error: float | None


def load(
  path: epath.PathLike,
  config: Run,
  ema: float,
  like: Any,
  step: int | None = None,
) -> LoadedEma:
  """Loads an EMA of a workdir, at one of its checkpoints.

  An EMA of a relative width that the run does not keep is reconstructed, if
  there are snapshots.

  Args:
    path: the workdir.
    config: the workdir's config.
    ema: the number that names the EMA; see `averaging`.
    like: the shapes and types of the parameters, and the shardings in which
      they are read and fitted; without shardings, they are on the first device.
    step: the checkpoint's step; None is the newest one that can be read.

  Raises:
    UserError: there is no such checkpoint, or no such EMA and no snapshots.
    ConfigError: the number can name no EMA.
  """
  name, names = averaging.name(ema), [averaging.name(e) for e in config.ema]
  if name not in names:
    widths = averaging.relative_widths(config)
    if ema >= 1 or not widths or not snapshots.steps(path):
      raise UserError(
        f"{path} keeps no EMA of {ema:g}; it has {', '.join(names)}, and no "
        "snapshots to reconstruct it from"
      )
    return reconstruct(path, config, ema, like, step)
  params, step = _read_checkpoint(path, name, like, step)
  return LoadedEma(params, step, None)


def load_snapshot(
  path: epath.PathLike, config: Run, ema: float, like: Any, step: int
) -> LoadedEma:
  """Loads an EMA of a workdir as it was at a snapshot's step.

  One that the snapshot does not hold is reconstructed, as far as the EMAs that
  are stored up to that step allow. The arguments are those of `load`, and
  `step` is the snapshot's.

  Raises:
    UserError: there is no such snapshot, or no such EMA.
    ConfigError: the number can name no EMA.
  """
  steps = snapshots.steps(path)
  if step not in steps:
    raise UserError(
      f"{path} has no snapshot of step {step}; it has "
      f"{', '.join(map(str, steps)) or 'none'}"
    )
  name = averaging.name(ema)
  if snapshots.holds(path, step, name):
    return LoadedEma(snapshots.load(path, step, name, like), step, None)
  return reconstruct(path, config, ema, like, step)


def reconstruct(
  path: epath.PathLike,
  config: Run,
  sigma_rel: float,
  like: Any,
  step: int | None = None,
) -> LoadedEma:
  """Reconstructs an EMA from the snapshots and the newest checkpoint.

  It logs one line: what was done, and how well it fits. The arguments are those
  of `load`; by default the EMA is of the newest checkpoint's step.

  Raises:
    UserError: no EMA of that step is stored, or it cannot be read.
    ConfigError: the number can be no relative width.
  """
  averaging.check_ema(sigma_rel)
  if sigma_rel >= 1:
    raise ConfigError(
      f"{sigma_rel:g} is a half-life, of which no EMA can be reconstructed; "
      "choose a relative width, such as 0.05"
    )
  steps = snapshots.steps(path)
  if not steps:
    raise UserError(
      f"{path} has no snapshots; train with config.snapshot_every"
    )
  if not averaging.relative_widths(config):
    raise UserError(
      f"{path} keeps EMAs with half-lives alone, of which no other EMA can be "
      "reconstructed; choose one that it keeps"
    )
  newest, stored = _stored_emas(path, config, like, steps)
  step = newest if step is None else step
  held = sorted({at for at, _ in stored})
  if step not in held:
    # EMAs of other steps miss the newest weights, which count most.
    nearest = min(held, key=lambda at: abs(at - step))
    raise UserError(
      f"{path} has no EMAs of step {step}: its snapshots begin at step "
      f"{steps[0]}, its newest checkpoint is of step {newest}, and the nearest "
      f"step that it keeps EMAs of is {nearest}"
    )
  stored = {key: read for key, read in stored.items() if key[0] <= step}
  times = [time for time, _ in stored]
  exponents = [averaging.power_exponent(width) for _, width in stored]
  profiles = posthoc.Profile(times, exponents)
  wanted = posthoc.Profile(step, averaging.power_exponent(sigma_rel))
  coefficients = posthoc.fit(profiles, wanted)
  error = posthoc.fit_error(coefficients, profiles, wanted)
  logging.log(
    logging.WARNING if error > POOR_FIT else logging.INFO,
    f"reconstructing the EMA of width {averaging.name(sigma_rel)} at step "
    f"{step} from {len(stored)} stored ones (steps {times[0]} to {times[-1]}); "
    f"the fit misses {100 * error:.2g} % of its profile",
  )
  params = posthoc.combine(coefficients.tolist(), stored.values())
  return LoadedEma(params, step, error)


def _stored_emas(
  path: epath.PathLike, config: Run, like: Any, steps: list[int]
) -> tuple[int, dict[tuple[int, float], Callable[[], Any]]]:
  """Returns the newest step, and readers of EMAs by step and relative width."""
  widths = averaging.relative_widths(config)
  # Which of the checkpoints can be read is known once one of them has been.
  newest = _read_checkpoint(path, averaging.name(widths[0]), like)[1]

  def read(step: int, sigma_rel: float) -> Any:
    name = averaging.name(sigma_rel)
    if step < newest:
      return snapshots.load(path, step, name, like)
    # The checkpoint has the same EMAs as a snapshot there, not rounded.
    return _read_checkpoint(path, name, like, newest)[0]

  times = [step for step in steps if step < newest] + [newest]
  keys = itertools.product(times, widths)
  return newest, {key: functools.partial(read, *key) for key in keys}


def _read_checkpoint(
  path: epath.PathLike, name: str, like: Any, step: int | None = None
) -> tuple[Any, int]:
  """Returns an EMA of a checkpoint and the checkpoint's step."""
  if not (epath.Path(path) / storage.FOLDER).exists():
    raise UserError(f"{path} has no checkpoint yet; train first")
  with contextlib.closing(storage.Checkpoints(path, reading=True)) as reader:
    emas, step = reader.restore_ema({name: like}, step)
  return emas[name], step
