"""The schedule's values, the transformation's kind, and what RAdam needs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scm_jax.defaults import get_defaults
from scm_jax.errors import ConfigError
from scm_jax.objectives import OBJECTIVES, Point, Student
from scm_jax.training import optimizer, resolve


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


def test_schedule_of_the_paper():
  """ImageNet 64x64, S (Table 5): batch 2048, 10 M images of ramp-up."""
  config = get_defaults()
  config.optimizer.update(learning_rate=1e-4, decay_steps=35_000)
  steps = jnp.array([0, 1000, 4883, 35_000, 140_000, 400_000])
  expected = [0, 2.048e-5, 1e-4, 1e-4, 5e-5, 1e-4 * (35 / 400) ** 0.5]
  rates = optimizer.learning_rate(config, steps)
  np.testing.assert_allclose(rates, expected, rtol=1e-6)
  assert (config.optimizer.b1, config.optimizer.b2) == (0.9, 0.99)
  assert config.optimizer.eps == 1e-11


SHAPE = (4, 4, 4, 3)  # D = 48


def gradient(unit, kind):
  """Of an objective's loss in its network's one number and log-weight."""
  x0, z = np.random.default_rng(0).normal(size=(2, *SHAPE)).astype(np.float32)
  t = jnp.linspace(0.3, 1.3, 4)
  F = lambda params, x, t, cond, **kwargs: params["a"] * jnp.tanh(x)
  w = lambda params, t: params["w"] + 0.0 * t

  def loss(params):
    spec = OBJECTIVES[kind]
    options = spec.options(sigma_d=1.0, weighting_unit=unit)
    point = Point(x0, z, t)
    return spec.loss(Student(F, w), params, point, None, options, 10_000)[0]

  return jax.grad(loss)({"a": jnp.float32(0.7), "w": jnp.float32(0.1)})


@pytest.mark.parametrize("kind", ["teacher", "sct"])
def test_units_of_the_weighting(kind):
  """w_phi counts once a sample (Equation 8), or once for each number."""
  sample, pixel = gradient("sample", kind), gradient("pixel", kind)
  assert abs(sample["w"]) <= 1.0 and sample["a"] != 0
  for name in ("a", "w"):
    np.testing.assert_allclose(pixel[name], 48 * sample[name], rtol=1e-5)


def first_updates(config, gradient):
  transformation = optimizer.build(config)
  state, updates = transformation.init(gradient), []
  for _ in range(12):
    update, state = transformation.update(gradient, state, gradient)
    updates.append(float(update["w"]))
  return np.array(updates)


def test_radam_needs_the_loss_of_a_sample(config):
  """Its first updates are plain momentum: they grow with the loss, by D."""
  config.optimizer.update(learning_rate=1e-4, rampup_images=0, decay_steps=0)
  units = {unit: gradient(unit, "teacher") for unit in ("sample", "pixel")}
  config.optimizer.name = "adam"
  adam = {unit: first_updates(config, g) for unit, g in units.items()}
  np.testing.assert_allclose(adam["sample"], adam["pixel"], rtol=1e-4)
  config.optimizer.name = "radam"
  radam = {unit: first_updates(config, g) for unit, g in units.items()}
  ratio = radam["pixel"] / radam["sample"]
  np.testing.assert_allclose(ratio[:4], 48.0, rtol=1e-4)
  np.testing.assert_allclose(ratio[8:], 1.0, rtol=1e-4)
  # So w moves by no more than the learning rate from the first step on.
  assert np.abs(radam["sample"]).max() <= 1e-4

  config.total_steps = 1
  config.data.update(size=8, channels=1)
  resolve.check(config)
  config.objective.weighting_unit = "pixel"
  with pytest.raises(ConfigError, match="weighting_unit is 'pixel'.*sample"):
    resolve.check(config)
  config.optimizer.name = "adam"
  resolve.check(config)


def test_an_unknown_optimizer_is_named(config):
  config.optimizer.name = "adamm"
  with pytest.raises(ConfigError, match="optimizer.name is 'adamm'.*adam"):
    optimizer.build(config)
