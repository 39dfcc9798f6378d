"""Whether the values of a run are still those of a model that learns."""

import logging
from typing import Any

import numpy as np

from scm_jax.errors import UserError
from scm_jax.training.checkpoints.storage import Checkpoints
from scm_jax.training.monitoring.windows import Spoilt, Window

PATIENCE = 10  # steps in a row without a finite gradient that stop a run
_SHOWN = 4  # samples that a message names


class Health:
  """Looks at the metrics of a run, and stops one that no longer learns."""

  def __init__(self, config: Any, checkpoints: Checkpoints):
    self._config, self._checkpoints = config, checkpoints
    self._in_a_row = 0  # steps up to the last window's end, see `Spoilt.last`

  def check(self, window: Window) -> None:
    """Looks at a window that need not be complete.

    Raises:
      UserError: the loss, the outputs or too many samples are not finite, or
        the gradient has not been for `PATIENCE` steps in a row.
    """
    if not window.count:
      return
    self._check_values(window)
    spoilt = window.spoilt(self._in_a_row)
    if spoilt.longest < PATIENCE or self._config.nonfinite != "stop":
      return
    self._stop(
      f"the gradient was not finite in {spoilt.longest} steps in a row, up to "
      f"step {window.step}; {_causes(spoilt)}; set --config.nonfinite=warn to "
      "go on all the same, or --config.isolate=true to leave out samples that "
      "overflow"
    )

  def close(self, window: Window) -> None:
    """Looks at a complete window, and warns of what was zeroed in it.

    Raises:
      UserError: as `check`.
    """
    self.check(window)
    spoilt = window.spoilt(self._in_a_row)
    self._in_a_row = spoilt.last
    if spoilt.steps:
      logging.warning(
        "by step %d the gradient was not finite in %d of %d steps, and its bad "
        "entries were zeroed; %s",
        *(window.step, spoilt.steps, window.count, _causes(spoilt)),
      )

  def _check_values(self, window: Window) -> None:
    config, summary = self._config, window.summary()
    bad = summary["nonfinite_samples"] / window.count
    rms = summary["output_rms"]
    if np.isfinite(summary["loss"]) and rms <= config.divergence_limit:
      if bad <= config.batch_size / 2:
        return
    self._stop(
      f"diverged by step {window.step}: loss {summary['loss']:.4g}, output RMS "
      f"{rms:.4g}, {bad:.4g} of {config.batch_size} samples not finite"
    )

  def _stop(self, reason: str) -> None:
    self._checkpoints.wait()
    raise UserError(
      f"{reason}; {self._checkpoints.good()}; look at what grows by time in "
      "metrics.jsonl, lower config.optimizer.learning_rate in another --workdir"
    )


def _causes(spoilt: Spoilt) -> str:
  """Which samples overflowed, as far as they tell."""
  if not spoilt.samples:
    return (
      "every sample's own values were finite, so it overflowed on its way back "
      "through the network"
    )
  shown = ", ".join(
    f"t={t:.4g}" + (f" with label {label}" if label >= 0 else "")
    for t, label in spoilt.samples[:_SHOWN]
  )
  return f"these samples overflowed in the network: {shown}"
