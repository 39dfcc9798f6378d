"""The error of a run's tangents against those of float32.

The tangent `g` is a small difference of large terms, so the rounding of the
network's values and of their derivative is magnified in it. Two figures say by
how much, for each bin of times in `diagnostics`: the relative error of a
sample's `g`; and the relative error of the mean of `g` over the samples, which
would vanish as their number grows if the errors were only noise.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from scm_jax.objectives import diagnostics


def errors(g: Array, exact: Array, t: Array) -> dict[str, Array]:
  """Sums the errors of tangents over samples, by bins of time.

  The sums of several devices may be added.

  Args:
    g: the tangents that a run takes, `[B, ...]`.
    exact: the tangents in float32, `[B, ...]`.
    t: radians `[B]`.

  Returns:
    For each bin of the time: `count` `[TIME_BINS]`, the number of samples;
    `relative` `[TIME_BINS]`, the sum of `|g - exact| / |exact|`; `error` and
    `signal` `[TIME_BINS, D]`, the sums of `g - exact` and of `exact`. A sample
    that is not finite in both is left out.
  """
  valid = diagnostics.finite(g, exact)
  member = diagnostics.members(t, valid)
  g, exact = (diagnostics.select(valid, v) for v in (g, exact))
  size = diagnostics.norms(exact)
  relative = diagnostics.norms(g - exact) / jnp.where(size > 0, size, 1.0)
  by_bin = lambda v: jnp.matmul(
    member.T, v.reshape(len(v), -1), precision=jax.lax.Precision.HIGHEST
  )
  return {
    "count": member.sum(0),
    "relative": by_bin(relative)[:, 0],
    "error": by_bin(g - exact),
    "signal": by_bin(exact),
  }


def summary(sums: dict[str, np.ndarray]) -> dict[str, float]:
  """Computes scalars for `metrics.jsonl`, for each bin that had a sample.

  `tangent_error/t=CENTRE` is the mean relative error of a sample;
  `tangent_bias/t=CENTRE` is the relative error of the mean.
  """
  found = {}
  for i, centre in enumerate(diagnostics.centres()):
    if not sums["count"][i]:
      continue
    relative = sums["relative"][i] / sums["count"][i]
    found[f"tangent_error/t={centre:.2f}"] = float(relative)
    signal = math.sqrt(np.square(sums["signal"][i], dtype=np.float64).sum())
    error = math.sqrt(np.square(sums["error"][i], dtype=np.float64).sum())
    if signal:
      found[f"tangent_bias/t={centre:.2f}"] = error / signal
  return found
