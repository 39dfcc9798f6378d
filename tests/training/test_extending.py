"""A new objective and a new network are an entry in a registry, and work."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import scm_jax
from scm_jax import networks, objectives, schema
from scm_jax.errors import ConfigError
from scm_jax.networks import NetworkConfig
from scm_jax.objectives import spec
from scm_jax.training import program, resolve, sharding
from scm_jax.training.step import init_state, seed_of


@dataclasses.dataclass(frozen=True)
class ToyConfig(NetworkConfig):
  """A network of one layer."""

  width: int = 5


class Toy(nn.Module):
  """A layer whose parameter is named as those on EDM2's sphere are."""

  config: ToyConfig

  @nn.compact
  def __call__(self, x, t, cond, train=False):
    width = self.config.width
    normal = nn.initializers.normal(3.0)
    weight = self.param("weight", normal, (x.shape[-1], width))
    return (jnp.sin(x @ weight) * t[:, None, None, None]).sum(-1, keepdims=True)


@dataclasses.dataclass(frozen=True)
class ToyOptions(spec.Options):
  """An objective with one option."""

  power: float = 2.0


def toy_loss(student, params, point, velocity, options, step):
  """Returns the mean power of the network's output."""
  output = spec.evaluate(student.F, params, point.x0, point.t, point)
  loss = jnp.mean(jnp.abs(output) ** options.power)
  valid = jnp.ones(len(point.x0), bool)
  return loss, {"loss": loss, "valid": valid}


@pytest.fixture
def config(make_config, monkeypatch):
  toy = dataclasses.replace(
    objectives.OBJECTIVES["sct"],
    options=ToyOptions,
    loss=toy_loss,
    tangent=None,
  )
  monkeypatch.setitem(objectives.OBJECTIVES, "toy", toy)
  family = networks.Family(ToyConfig, Toy)
  monkeypatch.setitem(networks.FAMILIES, "toy", family)
  given = make_config("sct").unlock()
  given.run, given.network.family = "toy", "toy"
  given.objective.power, given.network.width = 4.0, 3
  # Fields of the U-Net's and of sCT's as they are by default.
  for name, default in schema.options(networks.UNetConfig).items():
    if name != "dtype":
      given.network[name] = default
  given.objective.warmup_steps = 10_000
  return given


def test_a_new_objective_trains_a_new_network(config):
  resolve.check(config)
  mesh = sharding.make_mesh(config, jax.devices()[:1])
  run = resolve.resolve(config)
  made = program.make(run, mesh)
  state = init_state(run)
  weight = state.params["denoiser"]["weight"]
  assert weight.shape == (1, 3)
  image = np.random.default_rng(0).integers(0, 256, made.batch["image"].shape)
  label = np.zeros(made.batch["label"].shape, np.int32)
  batch = {"image": image.astype(np.uint8), "label": label}
  before = np.array(weight)
  state, metrics = made.step(state, None, batch, seed_of(config))
  state, after = made.step(state, None, batch, seed_of(config))
  assert float(after["loss"]) != float(metrics["loss"])
  # No sphere for a family that has none, whatever its parameters are called.
  now = np.asarray(state.params["denoiser"]["weight"])
  rms = np.sqrt(np.mean(np.square(now), axis=0))
  assert np.all(np.abs(rms - 1) > 1e-3)
  np.testing.assert_allclose(now, before, atol=0.1)


def test_the_loop_trains_it_and_draws(config, train, read_metrics, tmp_path):
  """With the metrics that every objective must return, and no others."""
  config.total_steps, config.sample.num = 4, 4
  assert train(config, tmp_path)
  lines = read_metrics(tmp_path)
  assert lines and all(line["nonfinite_samples"] == 0 for line in lines)
  images = scm_jax.load(tmp_path).sample(num=3)
  assert images.std() > 0


@pytest.mark.parametrize(
  "group, field, value",
  [("network", "num_blocks", 7), ("objective", "tangent_c", 0.7)],
)
def test_a_field_that_the_run_does_not_have(config, group, field, value):
  config[group][field] = value
  with pytest.raises(ConfigError, match=f"config.{group}.{field} is {value}"):
    resolve.check(config)
