"""Losses and tangents by time, and statistics over the finite samples.

Spikes of the tangent occur at particular times and vanish in a batch's mean, so
every objective reports its quantities in bins of `t` too. All of them are sums
with their counts, which may be added over steps and devices.
"""

import math

import jax
import jax.numpy as jnp
from jax import Array

TIME_BINS = 8  # equal parts of [0, pi/2]
JUMP_BINS = 4  # of each time of a jump from t to s


def by_time(t: Array, valid: Array, **values: Array) -> dict[str, Array]:
  """Sums per-sample values over bins of `t`.

  Args:
    t: radians `[B]`.
    valid: `[B]`, which samples count.
    **values: per-sample scalars `[B]`; entries that are not valid are ignored.

  Returns:
    For each name, sums `[TIME_BINS]`; and `count`.
  """
  member = members(t, valid)
  sums = {
    name: jnp.where(valid, value, 0.0).astype(member.dtype) @ member
    for name, value in values.items()
  }
  return sums | {"count": member.sum(0)}


def by_jump(
  t: Array, s: Array, valid: Array, **values: Array
) -> dict[str, Array]:
  """Sums per-sample values over bins of both times of a jump from `t` to `s`.

  Arguments are as in `by_time`.

  Returns:
    For each name, sums `[JUMP_BINS, JUMP_BINS]`, `t`'s bins first; and `count`.
  """
  at_t, at_s = members(t, valid, JUMP_BINS), members(s, valid, JUMP_BINS)
  sums = {
    name: jnp.einsum("b,bi,bj->ij", jnp.where(valid, value, 0.0), at_t, at_s)
    for name, value in values.items()
  }
  return sums | {"count": at_t.T @ at_s}


def members(t: Array, valid: Array, bins: int = TIME_BINS) -> Array:
  """Returns 1 where a valid sample is in a bin of `t`, else 0, `[B, bins]`."""
  bin_of = jnp.clip(t / (math.pi / 2) * bins, 0, bins - 1)
  return jax.nn.one_hot(bin_of.astype(jnp.int32), bins) * valid[:, None]


def centres(bins: int = TIME_BINS) -> list[float]:
  """Returns the bins' centres, in radians."""
  return [(i + 0.5) * math.pi / 2 / bins for i in range(bins)]


def norms(x: Array) -> Array:
  """Computes the L2 norm of each sample, `[B, ...]` to `[B]`."""
  return jnp.sqrt(jnp.sum(jnp.square(x), axis=tuple(range(1, x.ndim))))


def finite(*arrays: Array) -> Array:
  """Returns whether each sample is finite in all of the arrays, `[B]`."""
  flags = [
    jnp.all(jnp.isfinite(x), axis=tuple(range(1, x.ndim))) for x in arrays
  ]
  return jnp.stack(flags).all(axis=0)


def mean(valid: Array, values: Array) -> Array:
  """Averages per-sample `values` `[B]` over the valid samples; 0 for none."""
  total = jnp.sum(jnp.where(valid, values, 0.0))
  return total / jnp.maximum(jnp.sum(valid), 1)


def rms(valid: Array, x: Array) -> Array:
  """Computes the root-mean-square of `x` `[B, ...]` over the valid samples."""
  squares = jnp.mean(jnp.square(x), axis=tuple(range(1, x.ndim)))
  return jnp.sqrt(mean(valid, squares))


def select(valid: Array, x: Array, other: Array | float = 0.0) -> Array:
  """Returns `x` where the sample is valid, `other` elsewhere."""
  return jnp.where(valid.reshape((-1,) + (1,) * (x.ndim - 1)), x, other)
