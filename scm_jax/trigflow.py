"""TrigFlow geometry: noising, velocities, denoisers and changes of coordinates.

TrigFlow (arXiv 2410.11081, Section 3 and Appendix B) puts data and noise on a
quarter circle, `x_t = cos(t) x_0 + sin(t) z` with `z ~ N(0, sigma_d^2 I)` and
`t` in `[0, pi/2]` radians. A network `F` is asked at `x_t / sigma_d`, and its
probability-flow ODE is `dx_t/dt = sigma_d F(x_t / sigma_d, t)`.

Times are always float32 (or float64 where the caller works in it): near `t = 0`
and `t = pi/2` a bfloat16 time would move the noise level by per cents.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

SIGMA_MAX = 80.0  # largest noise level of the paper's samplers (Section G.2)


def expand(t: Array, x: Array) -> Array:
  """Reshapes per-sample times `[B]` so that they broadcast against `x`."""
  return t.reshape(t.shape + (1,) * (x.ndim - t.ndim))


def interpolate(x0: Array, z: Array, t: Array) -> Array:
  """Noises data: `x_t = cos(t) x0 + sin(t) z`.

  Args:
    x0: data `[B, ...]`, standard deviation `sigma_d`.
    z: noise like `x0`, from `N(0, sigma_d^2 I)` (not unit variance).
    t: radians `[B]`.
  """
  t = expand(t, x0)
  return jnp.cos(t) * x0 + jnp.sin(t) * z


def data_velocity(x0: Array, z: Array, t: Array) -> Array:
  """Returns the sample's own `dx_t/dt = cos(t) z - sin(t) x0` (Equation 4)."""
  t = expand(t, x0)
  return jnp.cos(t) * z - jnp.sin(t) * x0


def denoise(F: Array, x_t: Array, t: Array, sigma_d: float) -> Array:
  """Returns `cos(t) x_t - sin(t) sigma_d F`, for `F = F(x_t / sigma_d, t)`.

  Read as a diffusion model's output this is `D_theta`, the expected clean
  sample (Section 3); read as a consistency model's it is `f_theta`, the end of
  the trajectory (Equation 5). Both equal `x_t` at `t = 0`.
  """
  t = expand(t, x_t)
  return jnp.cos(t) * x_t - jnp.sin(t) * sigma_d * F


def sigma_to_time(sigma: Array | float, sigma_d: float) -> Array:
  """Converts EDM's noise level to a time: `t = arctan(sigma / sigma_d)`."""
  return jnp.arctan(jnp.asarray(sigma) / sigma_d)


def time_to_sigma(t: Array | float, sigma_d: float) -> Array:
  """Converts TrigFlow's time to EDM's noise level: `sigma = sigma_d tan(t)`."""
  return sigma_d * jnp.tan(jnp.asarray(t))


def max_time(sigma_d: float, sigma_max: float = SIGMA_MAX) -> float:
  """Returns the time at which sampling starts, `arctan(sigma_max / sigma_d)`.

  See Section G.2.
  """
  return math.atan(sigma_max / sigma_d)


def from_schedule(
  x: Array, alpha: Array, sigma: Array, sigma_d: float
) -> tuple[Array, Array]:
  """Brings a sample of any schedule onto the circle (Equations 29 and 30).

  Args:
    x: `alpha x0 + sigma epsilon` with `epsilon ~ N(0, I)`, `[B, ...]`.
    alpha: signal coefficients `[B]`; EDM has 1.
    sigma: noise coefficients `[B]`; EDM has its noise level.
    sigma_d: the data's standard deviation.

  Returns:
    `(x_t, t)`, the TrigFlow sample and its time.
  """
  t = jnp.arctan2(sigma, sigma_d * alpha)
  radius = jnp.sqrt(alpha**2 * sigma_d**2 + sigma**2)
  return expand(sigma_d / radius, x) * x, t


def to_edm(x_t: Array, t: Array, sigma_d: float) -> tuple[Array, Array]:
  """Converts a TrigFlow sample to EDM's: `(x_t / cos t, sigma_d tan t)`."""
  return x_t / expand(jnp.cos(t), x_t), time_to_sigma(t, sigma_d)


def network_from_edm(F_edm: Callable, sigma_d: float) -> Callable:
  """Wraps an EDM network `F_edm(u, c_noise, cond)` as a TrigFlow one.

  With equal network input, `c_skip x_sigma = cos(t) x_t` and `c_out =
  sigma_d sin t`, so `F(u, t) = -F_edm(u, ln(sigma_d tan t) / 4)`.
  """

  def F(params, u, t, cond, **kwargs):
    c_noise = jnp.log(time_to_sigma(t, sigma_d)) / 4
    return -F_edm(params, u, c_noise, cond, **kwargs)

  return F


def network_from_sit(v: Callable, sigma_d: float) -> Callable:
  """Wraps a network of SiT's, `v(y, tau, cond)`, as a TrigFlow one.

  SiT learns `y0 - eps` from `y = tau y0 + (1 - tau) eps` (arXiv 2401.08740,
  linear path), where `y0 = x0 / sigma_d` are its data and `eps` is unit noise.
  With `r = 1 / (sin t + cos t)` its input is `y = r u`, its time is `tau = r
  cos t`, and `F(u, t) = -r v(y, tau) + r (cos t - sin t) u`.
  """
  del sigma_d  # the network's input has no scale

  def F(params, u, t, cond, **kwargs):
    sine, cosine = jnp.sin(t), jnp.cos(t)
    r = 1 / (sine + cosine)
    output = v(params, expand(r, u) * u, r * cosine, cond, **kwargs)
    return expand(r * (cosine - sine), u) * u - expand(r, u) * output

  return F


def propose_times(
  key: Array, batch: int, P_mean: float, P_std: float, sigma_d: float
) -> Array:
  """Draws training times (Algorithm 1), float32 `[batch]` in radians.

  `ln sigma ~ N(P_mean, P_std^2)` and `t = arctan(sigma / sigma_d)`. (The text
  under Equation 8 prints another form; Algorithm 1 is what is meant.)
  """
  tau = P_mean + P_std * jax.random.normal(key, (batch,), jnp.float32)
  return sigma_to_time(jnp.exp(tau), sigma_d)
