"""Samplers: consistency steps for students, ODE solvers for teachers.

All take a network with its parameters bound, `F(x / sigma_d, t, cond)`, and
noise. None draws random numbers, so a sample depends on its own noise alone and
not on the batch that it is drawn in. Shapes are static and the loops are
`lax.scan`s, so that a sampler compiles to one program. They are our own and not
diffrax's, because their steps are EDM's and DPM-Solver's in the papers' own
coordinates, and their bits are what exports are compared with.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from scm_jax import trigflow

T_MID = 1.1  # the paper's second time, for every dataset (Section G.2)
SIGMA_MIN, RHO = 0.002, 7.0  # EDM's discretisation


Cond = dict[str, Array] | Sequence[dict[str, Array]]


class Path(NamedTuple):
  """The steps of a sampler.

  Attributes:
    times: times of the steps, radians `[N]`, decreasing.
    x_t: the noisy sample that each step began with, `[N, B, ...]`.
    x0: the network's estimate of the sample without noise in each step,
      `[N, B, ...]`. A sampler whose times end in 0 ends with the last of them.
  """

  times: Array
  x_t: Array
  x0: Array


def draw_noise(
  seed: int | Array, indices: Array, draws: int, shape: tuple[int, ...]
) -> Array:
  """Draws unit noise for the samples numbered `indices`, `[draws, B, *shape]`.

  Each sample's noise is a function of `(seed, index)` only. The seed is one for
  all samples, or one for each, `[B]`.
  """
  each = jnp.ndim(seed) > 0
  root = jax.vmap(jax.random.key)(seed) if each else jax.random.key(seed)

  def of_sample(root, index):
    keys = jax.random.split(jax.random.fold_in(root, index), draws)
    return jax.vmap(lambda k: jax.random.normal(k, shape))(keys)

  axes = 0 if each else None, 0
  return jax.vmap(of_sample, axes, out_axes=1)(root, indices)


def consistency_times(
  steps: int,
  sigma_d: float,
  t_mid: float = T_MID,
  sigma_max: float = trigflow.SIGMA_MAX,
) -> tuple[float, ...]:
  """Returns the times of an n-step sampler, decreasing from `t_max`.

  One and two steps are the paper's. For more steps, of which it gives no
  schedule, the times from the second on divide the way from `t_mid` to 0
  evenly. A `t_mid` of 0 stands for steps of equal length, `pi/2 / steps`.
  """
  second = t_mid or math.pi / 2 * (1 - 1 / steps)
  rest = np.linspace(second, 0.0, max(steps, 2))[: steps - 1]
  return (trigflow.max_time(sigma_d, sigma_max), *(float(t) for t in rest))


def consistency(
  F: Callable,
  noise: Array,
  cond: Cond,
  times: tuple[float, ...],
  sigma_d: float,
) -> tuple[Array, Path]:
  """Samples in several consistency steps (Song et al. 2023, Algorithm 1).

  Args:
    F: the student, with its parameters bound.
    noise: unit noise, `[len(times), B, ...]`; every step uses fresh noise.
    cond: the batch's condition, or one for each step.
    times: radians, decreasing; `len(times)` is the number of evaluations.
    sigma_d: the data's standard deviation.

  Returns:
    Samples `x0`, `[B, ...]`; and the steps that led to them.
  """
  batch, steps = noise.shape[1], []
  x0 = jnp.zeros_like(noise[0])
  for i, time in enumerate(times):
    z = sigma_d * noise[i]
    t = jnp.full((batch,), time, noise.dtype)
    # The first time is t_max, where x_t is taken to be noise alone.
    x_t = z if i == 0 else trigflow.interpolate(x0, z, t)
    output = F(x_t / sigma_d, t, _of_step(cond, i))
    x0 = trigflow.denoise(output, x_t, t, sigma_d)
    steps.append((x_t, x0))
  x_ts, x0s = (jnp.stack(seen) for seen in zip(*steps, strict=True))
  return x0, Path(jnp.asarray(times, noise.dtype), x_ts, x0s)


def _of_step(cond: Cond, step: int) -> dict[str, Array]:
  """Returns the condition of a step."""
  return cond if isinstance(cond, dict) else cond[step]


def flow_map(
  F: Callable,
  noise: Array,
  cond: Cond,
  times: tuple[float, ...],
  sigma_d: float,
  gamma: float = 0.0,
) -> tuple[Array, Path]:
  """Samples in several jumps of a flow map, with or without fresh noise.

  Each jump from `t` to the next time `t'` goes on to `arctan(sqrt(1 - gamma^2)
  tan t')`, from where fresh noise leads back to `t'` (CTM, arXiv 2310.02279).
  So `gamma = 0` adds no noise, and `gamma = 1` samples as `consistency` does.

  Args:
    F: the flow map's network, with its parameters bound, which is told the time
      at which each jump ends as `cond["target"]`.
    noise: as for `consistency`; with `gamma = 0` only the first is used.
    cond: the batch's condition, or one for each step.
    times: radians, decreasing; the last jump ends at 0.
    sigma_d: the data's standard deviation.
    gamma: how much noise is fresh, from 0 to 1.

  Returns:
    Samples `x0`, `[B, ...]`; and the steps that led to them.
  """
  batch, steps = noise.shape[1], []
  x_t = x0 = sigma_d * noise[0]
  for i, (time, after) in enumerate(zip(times, (*times[1:], 0.0), strict=True)):
    end = math.atan(math.sqrt(1 - gamma**2) * math.tan(after))
    t, s = (jnp.full((batch,), u, noise.dtype) for u in (time, end))
    output = F(x_t / sigma_d, t, _of_step(cond, i) | {"target": s})
    x0 = trigflow.denoise(output, x_t, t, sigma_d)
    steps.append((x_t, x0))
    if after:
      x_t = trigflow.denoise(output, x_t, t - s, sigma_d)
      x_t *= math.cos(after) / math.cos(end)
      if gamma:
        x_t += gamma * math.sin(after) * sigma_d * noise[i + 1]
  x_ts, x0s = (jnp.stack(seen) for seen in zip(*steps, strict=True))
  return x0, Path(jnp.asarray(times, noise.dtype), x_ts, x0s)


def ode_times(
  steps: int, sigma_d: float, sigma_max: float = trigflow.SIGMA_MAX
) -> Array:
  """Returns EDM's rho = 7 grid as times `[steps + 1]`, from `t_max` to 0."""
  ramp = jnp.linspace(sigma_max ** (1 / RHO), SIGMA_MIN ** (1 / RHO), steps)
  if steps == 1:
    ramp = ramp[:1]
  times = trigflow.sigma_to_time(ramp**RHO, sigma_d)
  return jnp.append(times, 0.0)


def heun(
  F: Callable,
  noise: Array,
  cond: dict[str, Array],
  times: Array,
  sigma_d: float,
) -> tuple[Array, Path]:
  """Samples by EDM's second-order solver, `2 N - 1` evaluations in `N` steps.

  Equals DPM-Solver-2S with Heun's intermediate point (Appendix B): Euler and
  trapezoid in EDM's coordinates, where the trajectory is straightest.

  Args:
    F: the diffusion model, with its parameters bound.
    noise: unit noise `[B, ...]`.
    cond: the batch's condition.
    times: radians, decreasing, ending in 0 (or in any time, for tests of
      order).
    sigma_d: the data's standard deviation.

  Returns:
    `x_t` at the last time, `[B, ...]`; and the steps that led to it.
  """

  def slope(x, t):
    """`dx_sigma / dsigma = (x_sigma - D) / sigma`, and `x_t` and `D`."""
    t = jnp.full(x.shape[:1], t, x.dtype)
    x_t = trigflow.expand(jnp.cos(t), x) * x
    clean = trigflow.denoise(F(x_t / sigma_d, t, cond), x_t, t, sigma_d)
    sigma = trigflow.expand(trigflow.time_to_sigma(t, sigma_d), x)
    return (x - clean) / sigma, (x_t, clean)

  def euler(x, t, t_next):
    gap = sigma_d * (jnp.tan(t_next) - jnp.tan(t))
    d, seen = slope(x, t)
    return x + gap * d, d, gap, seen

  def step(x, pair):
    guess, d, gap, seen = euler(x, *pair)
    return x + gap * (d + slope(guess, pair[1])[0]) / 2, seen

  x = sigma_d * noise / jnp.cos(times[0])
  x, seen = jax.lax.scan(step, x, (times[:-2], times[1:-1]))
  # The last step ends where sigma is 0 and the slope is not defined.
  x, _, _, last = euler(x, times[-2], times[-1])
  return x * jnp.cos(times[-1]), _path(times, seen, last)


def dpm_solver(
  F: Callable,
  noise: Array,
  cond: dict[str, Array],
  times: Array,
  sigma_d: float,
) -> tuple[Array, Path]:
  """Samples by DPM-Solver++ 2M (Equation 28), `N` evaluations in `N` steps.

  Second order, multistep; the first and last steps are of first order (the
  first has no predecessor, the last ends where log-SNR is infinite).

  The arguments and the result are those of `heun`.
  """

  def clean(x, t):
    t = jnp.full(x.shape[:1], t, x.dtype)
    return trigflow.denoise(F(x / sigma_d, t, cond), x, t, sigma_d)

  def move(x, s, t, x0):
    return (jnp.sin(t) * x + jnp.sin(s - t) * x0) / jnp.sin(s)

  def step(carry, triple):
    x, x0_before = carry
    before, s, t = triple
    x0 = clean(x, s)
    log_snr = lambda u: -jnp.log(jnp.tan(u))
    ratio = (log_snr(s) - log_snr(before)) / (log_snr(t) - log_snr(s))
    extrapolated = x0 + (x0 - x0_before) / (2 * ratio)
    return (move(x, s, t, extrapolated), x0), (x, x0)

  x = sigma_d * noise
  seen = (jnp.zeros((0, *x.shape), x.dtype),) * 2
  if len(times) > 2:
    x0 = clean(x, times[0])
    first, x = (x[None], x0[None]), move(x, times[0], times[1], x0)
    triples = (times[:-3], times[1:-2], times[2:-1])
    (x, _), rest = jax.lax.scan(step, (x, x0), triples)
    seen = tuple(map(jnp.concatenate, zip(first, rest, strict=True)))
  x0 = clean(x, times[-2])
  x_end = move(x, times[-2], times[-1], x0)
  return x_end, _path(times, seen, (x, x0))


def _path(times: Array, seen: Sequence[Array], last: Sequence[Array]) -> Path:
  """Joins the steps of a scan, `[N - 1, B, ...]`, and the one after them."""
  x_t, x0 = (
    jnp.concatenate([before, end[None]])
    for before, end in zip(seen, last, strict=True)
  )
  return Path(times[:-1], x_t, x0)
