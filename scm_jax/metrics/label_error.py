"""How often a sample shows another class than it was asked to show."""

from typing import Any

import numpy as np

from scm_jax.metrics.class_shares import FOUND_CLASSES
from scm_jax.metrics.metric import Column, Metric, Options


def _compute(
  generated: np.ndarray, reference: Any, options: Options
) -> tuple[float, ...]:
  del reference
  if options.asked is None:
    return ()
  return (float(np.mean(generated != options.asked)),)


METRIC = Metric(
  statistic=FOUND_CLASSES,
  compute=_compute,
  keys=("label_error",),
  columns=(Column("label_error", "wrong class %", scale=100.0, digits=1),),
  compares=False,
)
