"""From a config to a loss: randomness, conditions, warm-up and teacher."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scm_jax import networks, trigflow
from scm_jax.codec import PixelCodec
from scm_jax.defaults import get_defaults
from scm_jax.errors import ConfigError
from scm_jax.objectives import OBJECTIVES, flow_map
from scm_jax.training import objective, resolve

KEY = jax.random.key(3, impl="rbg")  # compiles sooner than the default
BATCH = {
  "image": jnp.asarray(
    np.random.default_rng(0).integers(0, 256, (64, 2, 2, 1)), jnp.uint8
  ),
  "label": jnp.arange(64) % 4,
}


class Recorder:
  """A network of one line that keeps what it was asked."""

  def __init__(self, config):
    self.calls = []
    self.network = networks.Network(
      lambda key: {}, self.F, lambda params, t: params["w"] + 0 * t, config
    )

  def F(self, params, x, t, cond, *, rngs=None, train=False):
    self.calls.append({"x": x, "t": t, "train": train, **cond})
    label = trigflow.expand(jnp.asarray(cond["label"], x.dtype), x)
    return jnp.sin(params["a"] * x + label + trigflow.expand(t, x))


def value(run, step=0, key=KEY, **fields):
  """Loss, its metrics, and what network and teacher were asked."""
  config = get_defaults()
  config.run = run
  config.data.update(size=2, channels=1, num_classes=4)
  config.network.channel_mult = (1,)
  config.objective.update(warmup_steps=10, **fields)
  student, teacher = (
    Recorder(resolve.resolve(config).network) for _ in range(2)
  )
  given = objective.Networks(student.network, teacher.network)
  goal = objective.build(resolve.resolve(config), given)
  params = {"a": jnp.float32(1.3), "w": jnp.float32(0.2)}
  total, metrics = goal.loss(
    params, {"a": jnp.float32(0.7)}, goal.draw(BATCH, key), jnp.int32(step)
  )
  return float(total), metrics, student.calls, teacher.calls


def test_a_loss_is_a_function_of_its_key():
  first = value("sct")[0]
  assert value("sct")[0] == first
  assert value("sct", key=jax.random.key(4, impl="rbg"))[0] != first


def test_noisy_samples_are_of_the_batch():
  _, _, (call,), teacher = value("teacher")
  assert teacher == [] and call["train"]
  np.testing.assert_array_equal(call["label"], BATCH["label"])
  # At the smallest times the input is nearly the data.
  nearest = np.argsort(call["t"])[:3]
  x0 = PixelCodec(0.0, 0.5, 0.5).encode(BATCH["image"])
  for i in nearest:
    np.testing.assert_allclose(
      call["x"][i], np.cos(call["t"][i]) * x0[i] / 0.5, atol=5 * call["t"][i]
    )
  assert abs(np.log(0.5 * np.tan(call["t"])).mean() + 0.8) < 1.0


def test_the_network_is_told_how_its_data_were_augmented():
  """And of unaugmented data nothing, whatever else it is; keys are apart."""
  config = get_defaults()
  config.data.update(size=4, channels=1)
  config.network.update(family="ddpmpp", augment=True, channel_mult=(1,))
  image = np.random.default_rng(0).integers(0, 256, (64, 4, 4, 1))
  batch = {"image": jnp.asarray(image, jnp.uint8)}

  def draws(**fields):
    config.data.update(fields)
    network = Recorder(resolve.resolve(config).network).network
    given = objective.Networks(network)
    return objective.build(resolve.resolve(config), given).draw(batch, KEY)

  plain, changed = draws(augment=0.0), draws(augment=1.0)
  x0 = resolve.resolve(config).codec.encode(batch["image"])
  np.testing.assert_array_equal(plain["x0"], x0)
  np.testing.assert_array_equal(plain["cond"]["augment"], np.zeros((64, 9)))
  told = changed["cond"]["augment"]
  assert np.all(np.any(told != 0, axis=1)) and np.std(told[:, 2]) > 0.7
  mirrored = told[:, 0] > 0
  assert 16 < mirrored.sum() < 48
  for name in ("z", "t"):
    np.testing.assert_array_equal(plain[name], changed[name])
  # Without the affine part the data are those of the batch, or mirrored.
  rare = draws(augment=1e-6)
  mirrored = rare["cond"]["augment"][:, 0] > 0
  expected = jnp.where(mirrored[:, None, None, None], x0[:, :, ::-1], x0)
  np.testing.assert_array_equal(rare["x0"], expected)


def test_label_dropout():
  labels = value("teacher", label_dropout=1.0)[2][0]["label"]
  np.testing.assert_array_equal(labels, 4)
  labels = value("teacher", label_dropout=0.5)[2][0]["label"]
  assert 10 < np.sum(labels == 4) < 54


def test_only_distillation_asks_the_teacher():
  _, _, _, asked = value("sct")
  assert asked == []
  _, _, student, (call,) = value("scd")
  assert not call["train"]
  np.testing.assert_array_equal(call["label"], student[0]["label"])


def test_warmup():
  norm = lambda step: float(value("scd", step=step)[1]["tangent_norm"])
  start, half, end = norm(0), norm(5), norm(10)
  assert len({start, half, end}) == 3
  assert norm(1000) == end
  # Without a second term the tangent is the gap between velocities alone.
  _, _, _, (call,) = value("scd")
  F = lambda a: jnp.sin(
    a * call["x"] + (call["label"] + call["t"])[:, None, None, None]
  )
  g = 0.5 * np.cos(call["t"])[:, None, None, None] ** 2 * (F(1.3) - F(0.7))
  expected = np.linalg.norm(g.reshape(64, -1), axis=1).mean()
  np.testing.assert_allclose(start, expected, rtol=1e-4)


def test_guidance():
  _, plain, _, _ = value("scd")
  _, one, _, asked = value("scd", guidance="fixed", guidance_scale=1.0)
  assert len(asked) == 2
  np.testing.assert_array_equal(asked[1]["label"], 4)
  np.testing.assert_allclose(one["loss"], plain["loss"], rtol=1e-5)
  _, two, _, _ = value("scd", guidance="fixed", guidance_scale=2.0)
  assert two["tangent_norm"] != pytest.approx(float(plain["tangent_norm"]))
  given = {"guidance": "fixed", "guidance_scale": 2.0}
  for interval, same in (((0.0, 1e9), two), ((1e7, 1e9), plain)):
    _, found, _, _ = value("scd", guidance_interval=interval, **given)
    np.testing.assert_allclose(found["loss"], same["loss"], rtol=1e-5)

  _, sampled, student, _ = value("scd", guidance="sampled")
  scales = student[0]["guidance"]
  assert scales.min() >= 1 and scales.max() <= 2 and np.ptp(scales) > 0.8
  assert sampled["tangent_norm"] != pytest.approx(float(two["tangent_norm"]))


@pytest.mark.parametrize(
  "wrong",
  [
    lambda total, told: total,
    lambda total, told: (total, {k: told[k] for k in told if k != "loss"}),
    lambda total, told: (total, told | {"valid": told["valid"].all()}),
    lambda total, told: (total, told | {"valid": 1.0 * told["valid"]}),
    lambda total, told: (total * jnp.ones(8), told),
  ],
)
def test_a_loss_of_another_form_is_refused(monkeypatch, wrong):
  plain = OBJECTIVES["sct"]
  own = dataclasses.replace(plain, loss=lambda *args: wrong(*plain.loss(*args)))
  monkeypatch.setitem(OBJECTIVES, "sct", own)
  with pytest.raises(ConfigError, match="the loss of the objective 'sct'"):
    value("sct")


def test_scales_that_are_even_in_their_logarithm():
  """Half of them are below the geometric mean."""
  options = flow_map.ImprovedMeanFlow(guidance_range=(1.0, 8.0))
  scales = objective.draw_scales(jax.random.key(0), 4000, options)
  assert scales.min() >= 1 and 7.9 < scales.max() <= 8
  np.testing.assert_allclose(np.median(scales), np.sqrt(8), rtol=0.05)
