"""EMAs of any width, after the training (EDM2, arXiv 2312.02696, Section 3.2).

The power-function EMA of exponent `gamma` at time `t` weighs the parameters of
time `tau` by its profile `p(tau) = (gamma + 1) tau^gamma / t^(gamma + 1)` on
`[0, t]` (Equation 121). The profile of the EMA that is wanted is fitted, in
least squares, by the profiles of EMAs that were stored: several widths at
several times (Appendix C). The same combination of the stored EMAs is then the
wanted one, up to the error of the fit.

Times are in steps or any other unit. All computations are in float64.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike, NDArray


class Profile(NamedTuple):
  """The profile of an EMA; with arrays, those of several EMAs.

  Attributes:
    time: the time of the EMA, positive.
    exponent: its gamma (see `averaging.power_exponent`).
  """

  time: ArrayLike
  exponent: ArrayLike


def inner_product(a: Profile, b: Profile) -> NDArray[np.float64]:
  """Returns the integral of the product of two profiles (EDM2, Equation 151).

  The arrays of `a` and `b` broadcast.
  """
  time_a, gamma_a, time_b, gamma_b = (
    np.asarray(x, np.float64) for x in (*a, *b)
  )
  common = np.minimum(time_a, time_b)
  # Powers of ratios at most 1: powers of the times themselves would overflow.
  shape = (common / time_a) ** gamma_a * (common / time_b) ** gamma_b
  size = (gamma_a + 1) * (gamma_b + 1) / (gamma_a + gamma_b + 1)
  return size * shape * common / (time_a * time_b)


def fit(stored: Profile, wanted: Profile) -> NDArray[np.float64]:
  """Returns the stored EMAs' coefficients in the wanted one (Algorithm 3).

  The coefficients `[N]` of the N stored EMAs, whose profiles all differ, are
  the unconstrained optimum, whose sum is 1 up to the error of the fit (EDM2's
  code divides them by their sum). If the wanted EMA is itself stored, its
  coefficient is 1 and all others are 0.
  """
  same_time = np.equal(stored.time, wanted.time)
  same = same_time & np.equal(stored.exponent, wanted.exponent)
  if same.any():
    return same.astype(np.float64)
  # Profiles of unit norm: late and early ones differ by orders of magnitude.
  unit = 1.0 / np.sqrt(inner_product(stored, stored))
  products = unit[:, None] * _products(stored) * unit
  return unit * np.linalg.solve(products, unit * inner_product(stored, wanted))


def fit_error(
  coefficients: ArrayLike, stored: Profile, wanted: Profile
) -> float:
  """Returns the norm of the fit's residual over that of the wanted profile.

  0 is a perfect fit; 1 is no better than nothing. It is accurate to about 1e-8.
  There is a coefficient for each of the N stored EMAs.
  """
  c = np.asarray(coefficients, np.float64)
  norm = inner_product(wanted, wanted)
  residual = (
    norm - 2 * c @ inner_product(stored, wanted) + c @ _products(stored) @ c
  )
  return float(np.sqrt(np.maximum(residual, 0.0) / norm))


def _products(profiles: Profile) -> NDArray[np.float64]:
  """Returns the inner products of every profile with every other, `[N, N]`."""
  rows = Profile(*(np.asarray(x)[:, None] for x in profiles))
  return inner_product(rows, profiles)


def combine(
  coefficients: Sequence[float], loads: Iterable[Callable[[], Any]]
) -> Any:
  """Returns the sum of stored EMAs times their coefficients, in float32.

  It has the shardings of the stored EMAs. The functions that read them are
  called one after the other, so that no more than two copies of the parameters
  are in memory. EMAs whose coefficient is zero are not read; not all may be.
  """

  def add(total, factor, ema):
    scaled = jax.tree.map(lambda x: factor * x.astype(jnp.float32), ema)
    return scaled if total is None else jax.tree.map(jnp.add, total, scaled)

  total = None
  for coefficient, load in zip(coefficients, loads, strict=True):
    if coefficient == 0.0:
      continue
    ema, factor = load(), jnp.float32(coefficient)
    where = jax.tree.map(lambda leaf: getattr(leaf, "sharding", None), ema)
    total = jax.jit(add, donate_argnums=0, out_shardings=where)(
      total, factor, ema
    )
    del ema  # before the next one is read
  return total
