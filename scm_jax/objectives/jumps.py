"""Where the jumps of a batch begin and end: the times `t` and `s`.

A consistency model jumps from `t` to data, `s = 0`; a flow map to any `s <= t`.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from scm_jax import trigflow
from scm_jax.objectives import spec
from scm_jax.objectives.point import Point
from scm_jax.objectives.tangent import Jump
from scm_jax.samplers import RHO, SIGMA_MIN


def draw(key: Array, count: int, options: Any) -> dict[str, Array]:
  """Draws a time for each sample, and where its jump ends if that is not 0."""
  drawn = spec.draw_times(key, count, options)
  if not options.two_times:
    return drawn
  end_key, share_key = jax.random.split(jax.random.fold_in(key, 1))
  t, s = ENDS[options.ends](end_key, drawn["t"], options)
  equal = jax.random.bernoulli(share_key, options.equal_share, (count,))
  return {"t": t, "s": jnp.where(equal, t, s)}


def _segment(key: Array, t: Array, options: Any) -> tuple[Array, Array]:
  """Ends at the lower end of the segment that `t` is in (multistep sCM)."""
  del key
  width = jnp.pi / 2 / options.segments
  return t, jnp.minimum(jnp.floor(t / width) * width, t)


def _below(key: Array, t: Array, options: Any) -> tuple[Array, Array]:
  """Ends evenly below `t`."""
  del options
  return t, t * jax.random.uniform(key, t.shape)


def _pair(key: Array, t: Array, options: Any) -> tuple[Array, Array]:
  """Ends at the smaller of two times from the proposal (MeanFlow)."""
  other = spec.draw_times(key, len(t), options)["t"]
  return jnp.maximum(t, other), jnp.minimum(t, other)


def _gap(key: Array, t: Array, options: Any) -> tuple[Array, Array]:
  """Draws the length of a jump first, in a rectified flow's time (AYF)."""
  length_key, end_key = jax.random.split(key)
  logit = jax.random.normal(length_key, t.shape)
  length = jax.nn.sigmoid(options.gap_mean + options.gap_std * logit)
  s = (1 - length) * jax.random.uniform(end_key, t.shape)
  on_circle = lambda tau: jnp.arctan2(tau, options.kappa * (1 - tau))
  return on_circle(s + length), on_circle(s)


# draw(key, t, options) -> (t, s), from the times of the proposal.
ENDS = {
  "zero": lambda key, t, options: (t, jnp.zeros_like(t)),
  "segment": _segment,
  "below": _below,
  "pair": _pair,
  "gap": _gap,
}


def prepared(point: Point, options: Any) -> Point:
  """Returns the batch on the grid, with the times of jumps in its condition."""
  if options.two_times:
    return told(point, point.drawn["s"])
  return on_grid(point, options)


def told(point: Point, s: Array) -> Point:
  """Returns the batch whose condition tells where the jumps end."""
  return point._replace(cond=point.cond | {"target": s})


def of(point: Point, options: Any) -> Jump:
  """Returns from where to where the batch jumps."""
  return Jump(
    point.t,
    options.sigma_d,
    point.drawn["s"] if options.two_times else None,
    options.tangent_scale,
    options.kappa,
  )


def on_grid(point: Point, options: Any) -> Point:
  """Returns the batch with its times on the grid, where there is one (dsCD)."""
  if options.derivative != "discrete":
    return point
  grid, t = time_grid(options.discrete_steps, options.sigma_d), point.t
  return point._replace(t=grid[_places(t, grid)].astype(t.dtype))


def successors(t: Array, options: Any) -> Array:
  """Returns the grid points one below those that `on_grid` gives."""
  grid = time_grid(options.discrete_steps, options.sigma_d)
  return grid[_places(t, grid) - 1].astype(t.dtype)


def _places(t: Array, grid: Array) -> Array:
  """Returns the index of the first grid point that is not below a time."""
  return jnp.clip(jnp.searchsorted(grid, t), 1, grid.size - 1)


def time_grid(steps: int, sigma_d: float) -> Array:
  """Returns EDM's grid on the circle, `0 = t_0 < ... < t_N` (Appendix E).

  It is radians `[N + 1]` for `N` steps.
  """
  low, high = SIGMA_MIN ** (1 / RHO), trigflow.SIGMA_MAX ** (1 / RHO)
  sigmas = jnp.linspace(low, high, steps) ** RHO
  times = trigflow.sigma_to_time(sigmas, sigma_d)
  return jnp.concatenate([jnp.zeros(1), times])
