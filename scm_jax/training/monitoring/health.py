"""Stops a training whose metrics are no longer those of a model that learns."""

import logging

import numpy as np

from scm_jax.defaults import Run
from scm_jax.errors import UserError
from scm_jax.training.checkpoints.storage import Checkpoints
from scm_jax.training.monitoring.windows import NonfiniteSteps, Window

PATIENCE = 10  # steps in a row without a finite gradient that stop a run
_SHOWN = 4  # samples that a message names


class Health:
  """The check of a run's metrics, window by window."""

  def __init__(self, config: Run, checkpoints: Checkpoints):
    self._config, self._checkpoints = config, checkpoints
    self._in_a_row = 0  # steps without a finite gradient before the window

  def check(self, window: Window) -> NonfiniteSteps | None:
    """Returns a window's steps without a finite gradient; None if it is empty.

    The window need not be complete.

    Raises:
      UserError: the loss, the outputs or too many samples are not finite, or
        the gradient has not been finite for `PATIENCE` steps in a row.
    """
    if not window.count:
      return None
    self._check_values(window)
    # Its mean hides steps that have just diverged, whose state would be saved.
    self._check_values(window.last)
    bad = window.nonfinite(self._in_a_row)
    if bad.longest >= PATIENCE and self._config.nonfinite == "stop":
      self._stop(
        f"the gradient was not finite in {bad.longest} steps in a row, up to "
        f"step {window.step}; {_cause(bad)}; set --config.nonfinite=warn to go "
        "on all the same, or in another --workdir --config.isolate=true to "
        "leave out samples that overflow"
      )
    return bad

  def close(self, window: Window) -> None:
    """Checks a complete window, and warns of gradients zeroed in it."""
    bad = self.check(window)
    if bad is None:
      return
    self._in_a_row = bad.last
    if bad.steps:
      logging.warning(
        f"by step {window.step} the gradient was not finite in {bad.steps} of "
        f"{window.count} steps, and its bad entries were zeroed; {_cause(bad)}"
      )

  def _check_values(self, window: Window) -> None:
    config, summary = self._config, window.summary()
    bad_samples = summary["nonfinite_samples"] / window.count
    # An objective need not tell the size of its outputs.
    loss, rms = summary["loss"], summary.get("output_rms", 0.0)
    bounded = np.isfinite(loss) and rms <= config.divergence_limit
    if not bounded or bad_samples > config.batch_size / 2:
      self._stop(
        f"diverged by step {window.step}: loss {loss:.4g}, output RMS "
        f"{rms:.4g}, {bad_samples:.4g} of {config.batch_size} samples not "
        "finite"
      )

  def _stop(self, reason: str) -> None:
    self._checkpoints.wait()
    raise UserError(
      f"{reason}; {self._checkpoints.good()}; look at what grows by time in "
      "metrics.jsonl, and lower config.optimizer.learning_rate in another "
      "--workdir"
    )


def _cause(bad: NonfiniteSteps) -> str:
  """Says which samples overflowed, as far as that is known."""
  if not bad.samples:
    return (
      "every sample's own values were finite, so it overflowed on its way back "
      "through the network"
    )
  shown = ", ".join(
    f"t={t:.4g}" + (f" with label {label}" if label >= 0 else "")
    for t, label in bad.samples[:_SHOWN]
  )
  return f"these samples overflowed in the network: {shown}"
