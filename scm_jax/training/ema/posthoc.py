"""Averages of any width, after training (EDM2, arXiv 2312.02696, Section 3.2).

A power-function average at time `t` weighs the parameters of time `tau` by its
profile, `p(tau) = (gamma + 1) tau^gamma / t^(gamma + 1)` on `[0, t]`. The
profile that is wanted is fitted, by least squares, with those of averages that
were stored: several widths at several times (Appendix C). The same combination
of the stored averages is then the average wanted, up to the fit's error.

Times are in steps, or any other unit; all is float64.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike, NDArray


def inner(
  time_a: ArrayLike, gamma_a: ArrayLike, time_b: ArrayLike, gamma_b: ArrayLike
) -> NDArray[np.float64]:
  """The integral of the product of two profiles; the arguments broadcast."""
  time_a, gamma_a, time_b, gamma_b = (
    np.asarray(x, np.float64) for x in (time_a, gamma_a, time_b, gamma_b)
  )
  common = np.minimum(time_a, time_b)
  # Powers of ratios at most 1: those of the times themselves would overflow.
  shape = (common / time_a) ** gamma_a * (common / time_b) ** gamma_b
  size = (gamma_a + 1) * (gamma_b + 1) / (gamma_a + gamma_b + 1)
  return size * shape * common / (time_a * time_b)


def solve(
  times: ArrayLike,
  gammas: ArrayLike,
  target_time: float,
  target_gamma: float,
) -> NDArray[np.float64]:
  """The stored averages' coefficients in the one that is wanted.

  Args:
    times: of the stored averages, positive, `[N]`.
    gammas: their exponents (`ema.gamma`), `[N]`; no pair of a time and an
      exponent may be there twice.
    target_time: of the wanted average.
    target_gamma: its exponent.

  Returns:
    Coefficients `[N]`: the unconstrained optimum, whose sum is 1 up to the
    error of the fit (EDM2's code divides them by their sum); exactly one 1 if
    the average itself is stored.
  """
  times, gammas = np.broadcast_arrays(
    np.asarray(times, np.float64), np.asarray(gammas, np.float64)
  )
  stored = (times == target_time) & (gammas == target_gamma)
  if stored.any():
    return stored.astype(np.float64)
  # Profiles of unit norm: late and early ones differ by orders of magnitude.
  unit = 1.0 / np.sqrt(inner(times, gammas, times, gammas))
  products = inner(times[:, None], gammas[:, None], times, gammas)
  wanted = inner(times, gammas, target_time, target_gamma)
  return unit * np.linalg.solve(unit[:, None] * products * unit, unit * wanted)


def error(
  coefficients: ArrayLike,
  times: ArrayLike,
  gammas: ArrayLike,
  target_time: float,
  target_gamma: float,
) -> float:
  """The norm of what a fit misses of the wanted profile, over the profile's.

  0 is a perfect fit; 1 is no better than nothing. Known to about 1e-8.
  """
  times, gammas = np.asarray(times), np.asarray(gammas)
  c = np.asarray(coefficients, np.float64)
  products = inner(times[:, None], gammas[:, None], times, gammas)
  wanted = inner(times, gammas, target_time, target_gamma)
  norm = inner(target_time, target_gamma, target_time, target_gamma)
  missed = norm - 2 * c @ wanted + c @ products @ c
  return float(np.sqrt(np.maximum(missed, 0.0) / norm))


def combine(
  coefficients: Sequence[float], loads: Iterable[Callable[[], Any]]
) -> Any:
  """The sum of stored averages, each times its coefficient, in float32.

  It lies where they lie, in the same shards.

  Args:
    coefficients: one for each stored average, not all zero.
    loads: functions that read them. They are called one after the other, so
      that two copies of the parameters are in memory and no more; those whose
      coefficient is zero are not read.
  """
  total = None
  for coefficient, load in zip(coefficients, loads, strict=True):
    if coefficient == 0.0:
      continue
    part, factor = load(), jnp.float32(coefficient)
    where = jax.tree.map(lambda leaf: getattr(leaf, "sharding", None), part)
    if total is None:
      total = jax.jit(_scale, out_shardings=where)(factor, part)
    else:
      add = jax.jit(_add, donate_argnums=0, out_shardings=where)
      total = add(total, factor, part)
    del part  # before the next is read
  return total


def _scale(factor, part):
  return jax.tree.map(lambda x: factor * x.astype(jnp.float32), part)


def _add(total, factor, part):
  return jax.tree.map(lambda a, b: a + b, total, _scale(factor, part))
