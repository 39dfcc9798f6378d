"""A diffusion run that learns its teacher's velocity instead of the data's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scm_jax import networks, trigflow
from scm_jax.defaults import get_defaults
from scm_jax.errors import ConfigError
from scm_jax.training import objective, resolve

BATCH = {
  "image": jnp.asarray(
    np.random.default_rng(0).integers(0, 256, (32, 2, 2, 1)), jnp.uint8
  ),
  "label": jnp.arange(32) % 4,
}
PARAMS = {"a": jnp.float32(1.3)}
TEACHER = {"a": jnp.float32(0.7), "guide": {"a": jnp.float32(0.2)}}


def F(params, x, t, cond, **kwargs):
  label = trigflow.expand(jnp.asarray(cond["label"], x.dtype), x)
  return jnp.sin(params["a"] * x + label + trigflow.expand(t, x))


def network(config):
  w = lambda params, t: 0 * t
  return networks.Network(lambda key: {}, F, w, resolve.resolve(config).network)


def settings(**fields):
  config = get_defaults()
  config.total_steps = 1
  config.data.update(size=8, channels=1, num_classes=4)
  config.objective.update(**fields)
  return config


def mse(weak=False, **fields):
  config = settings(**fields)
  nets = [network(config) for _ in range(3 if weak else 2)]
  made = objective.build(resolve.resolve(config), objective.Networks(*nets))
  draws = made.draw(BATCH, jax.random.key(3, impl="rbg"))
  _, metrics = made.loss(PARAMS, TEACHER, draws, jnp.int32(0))
  x_t = trigflow.interpolate(draws["x0"], draws["z"], draws["t"])
  ask = lambda a, cond: F({"a": a}, x_t / 0.5, draws["t"], cond)
  return float(metrics["mse"]), ask, draws["cond"]


def test_the_target_is_the_teachers_velocity():
  value, ask, cond = mse(target="teacher")
  expected = 0.25 * np.mean((ask(1.3, cond) - ask(0.7, cond)) ** 2)
  np.testing.assert_allclose(value, expected, rtol=1e-5)
  # The data's own velocity has the noise's variance beside it.
  assert mse(target="data")[0] > 2 * value


@pytest.mark.parametrize("weak", [False, True])
def test_the_teacher_may_be_guided(weak):
  value, ask, cond = mse(
    weak, target="teacher", guidance="fixed", guidance_scale=1.5
  )
  other = ask(0.2, cond) if weak else ask(0.7, {"label": jnp.full(32, 4)})
  target = other + 1.5 * (ask(0.7, cond) - other)
  expected = 0.25 * np.mean((ask(1.3, cond) - target) ** 2)
  np.testing.assert_allclose(value, expected, rtol=1e-5)


def test_what_makes_no_run():
  config = settings(target="teacher")
  with pytest.raises(ConfigError, match="config.teacher is empty"):
    resolve.check(config)
  config.teacher = "runs/edm2"
  resolve.check(config)
  config.objective.guidance = "sampled"
  with pytest.raises(ConfigError, match="objective.guidance is 'sampled'"):
    resolve.check(config)
  config.run, config.objective.target = "scd", "data"
  resolve.check(config)
