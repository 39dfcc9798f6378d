"""Post-hoc EMAs agree with quadrature, a general solver and tracked EMAs."""

import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate

from scm_jax.training.ema import averaging, posthoc
from scm_jax.training.ema.posthoc import Profile, inner_product

WIDTHS = (0.05, 0.10)


def profile(tau, time, gamma):
  """Returns the weight of the parameters of `tau` in an EMA at `time`."""
  ratio = np.asarray(tau) / time
  return np.where(ratio <= 1, (gamma + 1) / time * ratio**gamma, 0.0)


def grid(number, widths=WIDTHS, last=1.0):
  """Returns the profiles of snapshots at even distances up to `last`."""
  times = np.repeat(last * (np.arange(number) + 1) / number, len(widths))
  exponents = [averaging.power_exponent(width) for width in widths]
  return Profile(times, np.tile(exponents, number))


@pytest.mark.parametrize(
  "a, b",
  [
    (Profile(1.0, 6.94), Profile(1.0, 16.97)),
    (Profile(0.3, 16.97), Profile(2.0, 6.94)),
    (Profile(7, 0), Profile(5, 1)),
  ],
)
def test_inner_products_by_quadrature(a, b):
  product = lambda tau: profile(tau, *a) * profile(tau, *b)
  end = min(a.time, b.time)
  expected, _ = integrate.quad(product, 0.0, end, epsrel=1e-12)
  assert inner_product(a, b) == pytest.approx(expected, rel=1e-10)
  assert inner_product(b, a) == pytest.approx(expected, rel=1e-10)


def test_times_of_a_long_run_do_not_overflow():
  assert inner_product(Profile(4096.0, 63.66), Profile(1e6, 63.66)) >= 0
  # The unit of time does not matter.
  steps = inner_product(Profile(4096.0, 6.94), Profile(1e6, 16.97))
  millions = inner_product(Profile(4096e-6, 6.94), Profile(1.0, 16.97))
  assert 1e6 * steps == pytest.approx(millions)


@pytest.mark.parametrize("width", [0.03, 0.075, 0.15])
def test_coefficients_are_the_numerical_optimum(width):
  """A general solver on a fine grid of times finds the same."""
  stored = grid(6)
  wanted = Profile(0.95, averaging.power_exponent(width))
  coefficients = posthoc.fit(stored, wanted)
  assert coefficients.dtype == np.float64
  tau = (np.arange(200_000) + 0.5) / 200_000
  values = profile(tau[:, None], *stored)
  best = np.linalg.lstsq(values, profile(tau, *wanted))[0]
  np.testing.assert_allclose(coefficients, best, rtol=1e-3, atol=1e-4)
  missed = profile(tau, *wanted) - values @ coefficients
  size = np.linalg.norm(profile(tau, *wanted))
  error = posthoc.fit_error(coefficients, stored, wanted)
  assert error == pytest.approx(np.linalg.norm(missed) / size, rel=1e-3)
  # No other coefficients do better.
  rng = np.random.default_rng(0)
  for other in coefficients + 1e-2 * rng.normal(size=(20, len(coefficients))):
    assert posthoc.fit_error(other, stored, wanted) > error


def test_a_stored_ema_is_taken_as_it_is():
  stored = grid(5, last=20_000)
  for index, one in enumerate(zip(*stored, strict=True)):
    coefficients = posthoc.fit(stored, Profile(*one))
    np.testing.assert_array_equal(coefficients, np.eye(10)[index])


@pytest.mark.parametrize("width", [0.015, 0.03, 0.075, 0.15])
def test_more_snapshots_fit_better(width):
  """The most are those of the paper's longest run (256 x 4096 steps)."""
  errors = []
  for number in (4, 16, 64, 256):
    stored = grid(number, last=4096.0 * number)
    wanted = Profile(stored.time[-1], averaging.power_exponent(width))
    coefficients = posthoc.fit(stored, wanted)
    errors.append(posthoc.fit_error(coefficients, stored, wanted))
    assert coefficients.sum() == pytest.approx(1.0, abs=errors[-1])
  assert errors == sorted(errors, reverse=True)
  # Measured bounds; 0.015 is far below both widths that are kept.
  assert errors[-1] < (2e-3 if width == 0.015 else 2e-4)
  assert errors[0] / errors[-1] > 100


def test_a_tracked_ema_is_reconstructed():
  """A random walk is averaged by the train step's own function."""
  steps, wanted = 2048, 0.075
  kept = (*WIDTHS, wanted)
  rng = np.random.default_rng(0)
  walk = np.cumsum(rng.normal(size=(steps, 20)), axis=0).astype(np.float32)

  def step(emas, now):
    number, params = now
    weights = {
      averaging.name(width): averaging.power_update_weight(
        number, averaging.power_exponent(width)
      )
      for width in kept
    }
    emas = averaging.update(emas, {"w": params}, weights)
    return emas, emas

  start = averaging.init({"w": jnp.zeros(20)}, kept)
  numbers = jnp.arange(1, steps + 1)
  _, history = jax.lax.scan(step, start, (numbers, jnp.asarray(walk)))
  tracked = history[averaging.name(wanted)]["w"][-1]

  errors = []
  for number in (4, 8, 16, 32):
    stored = grid(number, last=steps)
    target = Profile(steps, averaging.power_exponent(wanted))
    coefficients = posthoc.fit(stored, target)
    names = [averaging.name(width) for width in WIDTHS] * number
    loads = [
      lambda t=t, name=name: {"w": history[name]["w"][int(t) - 1]}
      for t, name in zip(stored.time, names, strict=True)
    ]
    made = posthoc.combine(coefficients, loads)["w"]
    errors.append(float(jnp.std(made - tracked) / walk.std()))
  assert errors == sorted(errors, reverse=True)
  assert errors[0] < 0.05 and errors[-1] < 2e-4

  # It is much closer to the tracked EMA than either EMA that was kept.
  for width in WIDTHS:
    other = history[averaging.name(width)]["w"][-1]
    assert jnp.std(other - tracked) / walk.std() > 100 * errors[-1]


def test_one_copy_is_read_at_a_time():
  """EMAs that are not needed are not read; float16 is summed in float32."""
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
