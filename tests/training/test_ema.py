"""Power-function averages, against their definition and EDM2's numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scm_jax.training import ema

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
  gamma = ema.gamma(sigma_rel)
  assert gamma == pytest.approx(GAMMAS[sigma_rel], abs=0.006)
  # By its meaning: the weights `m^gamma` of the steps spread this wide.
  m = (np.arange(100_000) + 0.5) / 100_000
  weights = m**gamma / np.sum(m**gamma)
  mean = weights @ m
  spread = np.sqrt(weights @ (m - mean) ** 2)
  assert spread == pytest.approx(sigma_rel, rel=1e-4)


def test_update_is_the_power_weighted_sum():
  sigma_rels, steps = (0.05, 0.1), 60
  rng = np.random.default_rng(0)
  history = rng.normal(size=(steps, 3)).astype(np.float32)
  start = {"a": {"b": jnp.full(3, 1e6)}}  # of which nothing may be left
  averages = ema.init(start, sigma_rels)
  update = jax.jit(
    lambda averages, params, step: ema.update(
      averages, params, step, sigma_rels
    )
  )
  for step, params in enumerate(history, 1):
    averages = update(averages, {"a": {"b": jnp.asarray(params)}}, step)
    if step == 1:
      np.testing.assert_array_equal(averages["0.050"]["a"]["b"], params)
  assert set(averages) == {"0.050", "0.100"}
  for sigma_rel in sigma_rels:
    # The integral of tau^gamma over each step, as a share of the whole.
    edges = (np.arange(steps + 1) / steps) ** (ema.gamma(sigma_rel) + 1)
    np.testing.assert_allclose(
      averages[ema.name(sigma_rel)]["a"]["b"],
      np.diff(edges) @ history,
      atol=1e-5,
    )


def test_decay():
  assert ema.decay(jnp.int32(1), 6.94) == 0
  np.testing.assert_allclose(ema.decay(jnp.int32(10), 6.94), 0.9**7.94, 1e-5)


def test_averages_start_as_copies():
  params = {"w": jnp.arange(3.0)}
  averages = ema.init(params, (0.05, 0.1))
  assert set(averages) == {ema.name(0.05), ema.name(0.1)}
  for average in averages.values():
    np.testing.assert_array_equal(average["w"], params["w"])
    # The state is donated: no buffer may appear in it twice.
    pointer = average["w"].unsafe_buffer_pointer()
    assert pointer != params["w"].unsafe_buffer_pointer()
