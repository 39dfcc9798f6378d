"""Post-hoc averages, against quadrature, brute force and tracked averages."""

import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate

from scm_jax.training.ema import averaging, posthoc

WIDTHS = (0.05, 0.10)


def profile(tau, time, gamma):
  """The weight of the parameters of `tau` in an average at `time`."""
  ratio = np.asarray(tau) / time
  return np.where(ratio <= 1, (gamma + 1) / time * ratio**gamma, 0.0)


def grid(number, widths=WIDTHS, last=1.0):
  """Times and exponents of snapshots at even distances up to `last`."""
  times = np.repeat(last * (np.arange(number) + 1) / number, len(widths))
  return times, np.tile([averaging.gamma(width) for width in widths], number)


@pytest.mark.parametrize(
  "a, b",
  [((1.0, 6.94), (1.0, 16.97)), ((0.3, 16.97), (2.0, 6.94)), ((7, 0), (5, 1))],
)
def test_inner_products_by_quadrature(a, b):
  expected, _ = integrate.quad(
    lambda tau: profile(tau, *a) * profile(tau, *b),
    *(0.0, min(a[0], b[0])),
    epsrel=1e-12,
  )
  assert posthoc.inner(*a, *b) == pytest.approx(expected, rel=1e-10)
  assert posthoc.inner(*b, *a) == pytest.approx(expected, rel=1e-10)


def test_times_of_a_long_run_do_not_overflow():
  assert posthoc.inner(4096.0, 63.66, 1e6, 63.66) >= 0
  unit = 1e6 * posthoc.inner(4096e0, 6.94, 1e6, 16.97)  # of time: no matter
  assert unit == pytest.approx(posthoc.inner(4096e-6, 6.94, 1.0, 16.97))


@pytest.mark.parametrize("width", [0.03, 0.075, 0.15])
def test_coefficients_are_the_numerical_optimum(width):
  """Of the profiles on a fine grid of times, by a general solver."""
  times, gammas = grid(6)
  target = 0.95, averaging.gamma(width)
  coefficients = posthoc.solve(times, gammas, *target)
  assert coefficients.dtype == np.float64
  tau = (np.arange(200_000) + 0.5) / 200_000
  stored = profile(tau[:, None], times, gammas)
  best = np.linalg.lstsq(stored, profile(tau, *target))[0]
  np.testing.assert_allclose(coefficients, best, rtol=1e-3, atol=1e-4)
  missed = profile(tau, *target) - stored @ coefficients
  size = np.linalg.norm(profile(tau, *target))
  error = posthoc.error(coefficients, times, gammas, *target)
  assert error == pytest.approx(np.linalg.norm(missed) / size, rel=1e-3)
  # No other coefficients do better.
  rng = np.random.default_rng(0)
  for other in coefficients + 1e-2 * rng.normal(size=(20, len(times))):
    assert posthoc.error(other, times, gammas, *target) > error


def test_what_is_stored_is_taken_as_it_is():
  times, gammas = grid(5, last=20_000)
  for index in range(len(times)):
    coefficients = posthoc.solve(times, gammas, times[index], gammas[index])
    np.testing.assert_array_equal(coefficients, np.eye(len(times))[index])


@pytest.mark.parametrize("width", [0.015, 0.03, 0.075, 0.15])
def test_more_snapshots_fit_better(width):
  """Up to those of the longest run that the paper has (256 of 4096 steps)."""
  errors = []
  for number in (4, 16, 64, 256):
    times, gammas = grid(number, last=4096.0 * number)
    target = times[-1], averaging.gamma(width)
    coefficients = posthoc.solve(times, gammas, *target)
    errors.append(posthoc.error(coefficients, times, gammas, *target))
    assert coefficients.sum() == pytest.approx(1.0, abs=errors[-1])
  assert errors == sorted(errors, reverse=True)
  # As measured; 0.015 is far below both widths that are kept.
  assert errors[-1] < (2e-3 if width == 0.015 else 2e-4)
  assert errors[0] / errors[-1] > 100


def test_a_tracked_average_is_reconstructed():
  """A random walk, averaged by the train step's own function."""
  steps, wanted = 2048, 0.075
  kept = (*WIDTHS, wanted)
  rng = np.random.default_rng(0)
  walk = np.cumsum(rng.normal(size=(steps, 20)), axis=0).astype(np.float32)

  def step(averages, now):
    number, params = now
    shares = {
      averaging.name(width): averaging.share(number, averaging.gamma(width))
      for width in kept
    }
    averages = averaging.update(averages, {"w": params}, shares)
    return averages, averages

  start = averaging.init({"w": jnp.zeros(20)}, kept)
  numbers = jnp.arange(1, steps + 1)
  _, history = jax.lax.scan(step, start, (numbers, jnp.asarray(walk)))
  tracked = history[averaging.name(wanted)]["w"][-1]

  errors = []
  for number in (4, 8, 16, 32):
    times, gammas = grid(number, last=steps)
    target = steps, averaging.gamma(wanted)
    coefficients = posthoc.solve(times, gammas, *target)
    names = [averaging.name(width) for width in WIDTHS] * number
    loads = [
      lambda t=t, name=name: {"w": history[name]["w"][int(t) - 1]}
      for t, name in zip(times, names, strict=True)
    ]
    made = posthoc.combine(coefficients, loads)["w"]
    errors.append(float(jnp.std(made - tracked) / walk.std()))
  assert errors == sorted(errors, reverse=True)
  assert errors[0] < 0.05 and errors[-1] < 2e-4

  # The width asked for is closer than either of those that were kept.
  for width in WIDTHS:
    other = history[averaging.name(width)]["w"][-1]
    assert jnp.std(other - tracked) / walk.std() > 100 * errors[-1]


def test_one_copy_is_read_at_a_time():
  """And only those that are needed; float16 is summed in float32."""
  read = []

  def load(value):
    def now():
      assert all(array() is None for _, array in read)
      array = jnp.full(3, value, jnp.float16)
      read.append((value, weakref.ref(array)))
      return {"w": array}

    return now

  loads = [load(value) for value in (1.0, 2.0, 3.0, 2048.0)]
  total = posthoc.combine([0.5, 0.0, -1.0, 1.0], loads)
  assert [value for value, _ in read] == [1.0, 3.0, 2048.0]
  assert total["w"].dtype == jnp.float32
  np.testing.assert_array_equal(total["w"], np.full(3, 2045.5))
