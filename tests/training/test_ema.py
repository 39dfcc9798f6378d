"""EMAs of the parameters, against their definition and EDM2's numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scm_jax.defaults import get_defaults
from scm_jax.errors import ConfigError
from scm_jax.training.ema import averaging

# sigma_rel and gamma; 0.05 and 0.10 are the two that EDM2 keeps.
GAMMAS = {
  0.015: 63.66,
  0.02: 46.99,
  0.025: 36.99,
  0.03: 30.32,
  0.04: 21.98,
  0.05: 16.97,
  0.06: 13.63,
  0.075: 10.29,
  0.10: 6.94,
}


@pytest.mark.parametrize("sigma_rel", GAMMAS)
def test_gamma(sigma_rel):
  gamma = averaging.power_exponent(sigma_rel)
  assert gamma == pytest.approx(GAMMAS[sigma_rel], abs=0.006)
  # The definition: the standard deviation of times weighted by `m^gamma`.
  m = (np.arange(100_000) + 0.5) / 100_000
  weights = m**gamma / np.sum(m**gamma)
  mean = weights @ m
  spread = np.sqrt(weights @ (m - mean) ** 2)
  assert spread == pytest.approx(sigma_rel, rel=1e-4)


@pytest.fixture
def config():
  config = get_defaults()
  config.batch_size = 100
  return config


def run(config, history, start):
  """Returns the EMAs after each of the updates that gave `history`."""
  emas, after_each = averaging.init(start, config.ema), []
  update = jax.jit(
    lambda emas, params, step: averaging.update(
      emas, params, averaging.update_weights(config, step)
    )
  )
  for step, params in enumerate(history, 1):
    emas = update(emas, {"a": {"b": jnp.asarray(params)}}, step)
    after_each.append(emas)
  return after_each


def test_update_is_the_power_weighted_sum(config):
  steps = 60
  rng = np.random.default_rng(0)
  history = rng.normal(size=(steps, 3)).astype(np.float32)
  start = {"a": {"b": jnp.full(3, 1e6)}}  # nothing of it may be left
  first, *_, last = run(config, history, start)
  assert set(first) == set(last) == {"0.050", "0.100"}
  for sigma_rel in config.ema:
    name = averaging.name(sigma_rel)
    np.testing.assert_array_equal(first[name]["a"]["b"], history[0])
    # The integral of tau^gamma over each step, over that of the whole run.
    exponent = averaging.power_exponent(sigma_rel)
    edges = (np.arange(steps + 1) / steps) ** (exponent + 1)
    np.testing.assert_allclose(
      last[name]["a"]["b"], np.diff(edges) @ history, atol=1e-5
    )


@pytest.mark.parametrize("step", [1, 2, 10, 100_000, 2_000_000])
def test_new_in_float32(step):
  """Computing `1 - 1 / step` first would give errors of per cents."""
  for exponent in GAMMAS.values():
    weight = averaging.power_update_weight(jnp.int32(step), exponent)
    assert weight.dtype == jnp.float32
    exact = 1 - (1 - np.float64(1) / step) ** (exponent + 1)
    np.testing.assert_allclose(weight, exact, rtol=1e-5)


def test_half_life(config):
  """During the ramp-up, half of the weight is on the last `ratio` of steps."""
  config.ema = (20_000.0,)  # 200 steps
  config.ema_rampup_ratio = 0.1
  steps = 3000
  new = averaging.update_weights(config, jnp.arange(1, steps + 1))["20000"]
  new = np.asarray(new, np.float64)
  assert new[0] == 1.0  # nothing of the initial parameters stays

  def weights(step):
    """Returns the weights of steps 1, 2, ... in the EMA at `step`."""
    kept = np.cumprod(1 - new[1:step][::-1])[::-1]
    return new[:step] * np.append(kept, 1.0)

  for step in (200, 1000, 2000):  # up to the end of the ramp-up
    last = weights(step)[-step // 10 :].sum()
    assert last == pytest.approx(0.5, abs=0.03)
  assert weights(steps).sum() == pytest.approx(1.0)
  assert weights(steps)[-200:].sum() == pytest.approx(0.5, abs=1e-4)
  constant = 1 - 0.5 ** (1 / 200)
  np.testing.assert_allclose(new[2000:], constant, rtol=1e-4)
  assert new[1000] > 1.9 * constant

  config.ema_rampup_ratio = 0.0
  new = averaging.update_weights(config, jnp.array([1, 2, 3000]))["20000"]
  np.testing.assert_allclose(new, constant, rtol=1e-5)


def test_half_lives_and_widths_side_by_side(config):
  config.ema = (500_000.0, 0.05)
  history = np.ones((3, 2), np.float32) * np.arange(3.0)[:, None]
  *_, last = run(config, history, {"a": {"b": jnp.full(2, 1e6)}})
  assert set(last) == {"500000", "0.050"}
  assert averaging.relative_widths(config) == (0.05,)
  for average in last.values():
    assert ((average["a"]["b"] > 1) & (average["a"]["b"] <= 2)).all()


def test_names_tell_emas_apart():
  names = {0.05: "0.050", 0.1: "0.100", 0.0499: "0.0499", 0.2125: "0.2125"}
  names |= {5e5: "500000", 1.0: "1", 1.5: "1.5"}
  assert {number: averaging.name(number) for number in names} == names


@pytest.mark.parametrize(
  "emas, said",
  [
    ((), "config.ema is empty"),
    ((0.05, 0.3), "0.3 names no EMA: a relative width lies between 0"),
    ((0.0,), "0 names no EMA: "),
    ((-0.1,), "-0.1 names no EMA: "),
    ((float("inf"),), "inf names no EMA: .* half-life in images is at"),
    ((0.05, 0.1, 0.05), "twice: 0.050, 0.100, 0.050"),
  ],
)
def test_emas_that_cannot_be_kept(emas, said, config):
  config.ema = emas
  with pytest.raises(ConfigError, match=said):
    averaging.check(config)


def test_snapshots_need_a_width(config):
  config.ema, config.snapshot_every = (500_000.0,), 10
  with pytest.raises(ConfigError, match="snapshot_every .* config.ema"):
    averaging.check(config)
  config.ema = (500_000.0, 0.05)
  averaging.check(config)


def test_emas_start_as_copies():
  params = {"w": jnp.arange(3.0)}
  emas = averaging.init(params, (0.05, 0.1))
  assert set(emas) == {averaging.name(0.05), averaging.name(0.1)}
  for ema in emas.values():
    np.testing.assert_array_equal(ema["w"], params["w"])
    # The state is donated: no buffer may appear in it twice.
    pointer = ema["w"].unsafe_buffer_pointer()
    assert pointer != params["w"].unsafe_buffer_pointer()
