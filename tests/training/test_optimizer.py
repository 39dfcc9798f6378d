"""The schedule's values and the transformation's kind."""

import jax.numpy as jnp
import numpy as np
import pytest

from scm_jax.defaults import get_defaults
from scm_jax.errors import ConfigError
from scm_jax.training import optimizer


@pytest.fixture
def config():
  config = get_defaults()
  config.batch_size = 100
  config.optimizer.update(
    learning_rate=0.01, decay_steps=1000, rampup_images=20_000
  )
  return config


def test_schedule(config):
  steps = jnp.array([0, 50, 200, 1000, 4000, 100_000])
  rates = optimizer.learning_rate(config, steps)
  expected = [0, 0.0025, 0.01, 0.01, 0.005, 0.001]
  np.testing.assert_allclose(rates, expected, rtol=1e-6)
  config.optimizer.update(decay_steps=0, rampup_images=0)
  rates = optimizer.learning_rate(config, steps)
  np.testing.assert_allclose(rates, 0.01, rtol=1e-6)


def test_cooldown(config):
  config.total_steps = 8000
  config.optimizer.cooldown = 0.5  # from step 4000 on
  steps = jnp.array([1000, 4000, 6000, 8000, 9000])
  rates = optimizer.learning_rate(config, steps)
  expected = [0.01, 0.005, 0.5 * 0.01 / 6**0.5, 0, 0]
  np.testing.assert_allclose(rates, expected, rtol=1e-6)


@pytest.mark.parametrize("name", ["adam", "radam"])
def test_updates_follow_the_schedule(config, name):
  config.optimizer.update(name=name, rampup_images=200, decay_steps=1)
  transformation = optimizer.build(config)
  params = {"w": jnp.ones(3)}
  gradient = {"w": jnp.array([1.0, -1.0, 1.0]) * 1e-6}
  state = transformation.init(params)
  for step in range(4):
    updates, state = transformation.update(gradient, state, params)
    rate = optimizer.learning_rate(config, step)
    if name == "adam":  # whose update is the sign of a constant gradient
      expected = -rate * np.sign(gradient["w"])
    else:  # which starts as plain momentum
      expected = -rate * gradient["w"]
    np.testing.assert_allclose(updates["w"], expected, rtol=1e-3)


def test_an_unknown_optimizer_is_named(config):
  config.optimizer.name = "adamm"
  with pytest.raises(ConfigError, match="optimizer.name is 'adamm'.*adam"):
    optimizer.build(config)
