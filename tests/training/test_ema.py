"""Averages of the parameters, against their definition and EDM2's numbers."""

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
  gamma = averaging.gamma(sigma_rel)
  assert gamma == pytest.approx(GAMMAS[sigma_rel], abs=0.006)
  # By its meaning: the weights `m^gamma` of the steps spread this wide.
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
  """The averages after each of the updates that gave `history`."""
  averages, all_averages = averaging.init(start, config.ema), []
  update = jax.jit(
    lambda averages, params, step: averaging.update(
      averages, params, averaging.shares(config, step)
    )
  )
  for step, params in enumerate(history, 1):
    averages = update(averages, {"a": {"b": jnp.asarray(params)}}, step)
    all_averages.append(averages)
  return all_averages


def test_update_is_the_power_weighted_sum(config):
  steps = 60
  rng = np.random.default_rng(0)
  history = rng.normal(size=(steps, 3)).astype(np.float32)
  start = {"a": {"b": jnp.full(3, 1e6)}}  # of which nothing may be left
  first, *_, last = run(config, history, start)
  assert set(first) == set(last) == {"0.050", "0.100"}
  for sigma_rel in config.ema:
    name = averaging.name(sigma_rel)
    np.testing.assert_array_equal(first[name]["a"]["b"], history[0])
    # The integral of tau^gamma over each step, as a share of the whole.
    edges = (np.arange(steps + 1) / steps) ** (averaging.gamma(sigma_rel) + 1)
    np.testing.assert_allclose(
      last[name]["a"]["b"], np.diff(edges) @ history, atol=1e-5
    )


@pytest.mark.parametrize("step", [1, 2, 10, 100_000, 2_000_000])
def test_shares_in_float32(step):
  """After a million steps, `1 - 1 / step` would be wrong by per cents."""
  for exponent in GAMMAS.values():
    share = averaging.share(jnp.int32(step), exponent)
    assert share.dtype == jnp.float32
    exact = 1 - (1 - np.float64(1) / step) ** (exponent + 1)
    np.testing.assert_allclose(share, exact, rtol=1e-5)


def test_half_life(config):
  """With a ramp-up: half of all weight is on the last `ratio` of the run."""
  config.ema = (20_000.0,)  # 200 steps
  config.ema_rampup_ratio = 0.1
  steps = 3000
  shares = averaging.shares(config, jnp.arange(1, steps + 1))["20000"]
  shares = np.asarray(shares, np.float64)
  assert shares[0] == 1.0  # nothing of the start stays

  def weights(step):
    """Of the parameters of steps 1, 2, ... in the average at `step`."""
    kept = np.cumprod(1 - shares[1:step][::-1])[::-1]
    return shares[:step] * np.append(kept, 1.0)

  for step in (200, 1000, 2000):  # up to the end of the ramp-up
    last = weights(step)[-step // 10 :].sum()
    assert last == pytest.approx(0.5, abs=0.03)
  assert weights(steps).sum() == pytest.approx(1.0)
  assert weights(steps)[-200:].sum() == pytest.approx(0.5, abs=1e-4)
  constant = 1 - 0.5 ** (1 / 200)
  np.testing.assert_allclose(shares[2000:], constant, rtol=1e-4)
  assert shares[1000] > 1.9 * constant

  config.ema_rampup_ratio = 0.0
  shares = averaging.shares(config, jnp.array([1, 2, 3000]))["20000"]
  np.testing.assert_allclose(shares, constant, rtol=1e-5)


def test_half_lives_and_widths_side_by_side(config):
  config.ema = (500_000.0, 0.05)
  history = np.ones((3, 2), np.float32) * np.arange(3.0)[:, None]
  *_, last = run(config, history, {"a": {"b": jnp.full(2, 1e6)}})
  assert set(last) == {"500000", "0.050"}
  assert averaging.widths(config) == (0.05,)
  for average in last.values():
    assert ((average["a"]["b"] > 1) & (average["a"]["b"] <= 2)).all()


def test_names_tell_averages_apart():
  names = {0.05: "0.050", 0.1: "0.100", 0.0499: "0.0499", 0.2125: "0.2125"}
  names |= {5e5: "500000", 1.0: "1", 1.5: "1.5"}
  assert {number: averaging.name(number) for number in names} == names


@pytest.mark.parametrize(
  "averages, said",
  [
    ((), "config.ema is empty"),
    ((0.05, 0.3), "no average is named 0.3: a relative width lies between 0"),
    ((0.0,), "no average is named 0: "),
    ((-0.1,), "no average is named -0.1: "),
    ((float("inf"),), "no average is named inf: .* half-life in images is at"),
    ((0.05, 0.1, 0.05), "twice: 0.050, 0.100, 0.050"),
  ],
)
def test_averages_that_cannot_be_kept(averages, said, config):
  config.ema = averages
  with pytest.raises(ConfigError, match=said):
    averaging.check(config)


def test_snapshots_need_a_width(config):
  config.ema, config.snapshot_every = (500_000.0,), 10
  with pytest.raises(ConfigError, match="has half-lives only; add one"):
    averaging.check(config)
  config.ema = (500_000.0, 0.05)
  averaging.check(config)


def test_averages_start_as_copies():
  params = {"w": jnp.arange(3.0)}
  averages = averaging.init(params, (0.05, 0.1))
  assert set(averages) == {averaging.name(0.05), averaging.name(0.1)}
  for average in averages.values():
    np.testing.assert_array_equal(average["w"], params["w"])
    # The state is donated: no buffer may appear in it twice.
    pointer = average["w"].unsafe_buffer_pointer()
    assert pointer != params["w"].unsafe_buffer_pointer()
