"""Samples in two parts, with networks whose flows are known."""

import functools
import math

import jax.numpy as jnp
import numpy as np
import pytest

from scm_jax import networks, samplers, trigflow
from scm_jax.codec import PixelCodec
from scm_jax.errors import ConfigError
from scm_jax.evaluation import composition
from scm_jax.evaluation.request import CandidateGrid, Request
from scm_jax.sampler import Sampler

SIGMA_D, SPREAD, T_MID = 0.5, 0.2, 1.1  # data are N(0, SPREAD^2)


def _variance(t):
  return (jnp.cos(t) * SPREAD) ** 2 + (jnp.sin(t) * SIGMA_D) ** 2


def _velocity(params, x, t, cond):
  """Returns the exact velocity of normal data, over sigma_d."""
  slope = jnp.sin(t) * jnp.cos(t) * (SIGMA_D**2 - SPREAD**2)
  return x * trigflow.expand(slope / _variance(t), x)


def _jump(params, x, t, cond, share=1.0):
  """Returns what maps a sample to the end of its trajectory at once.

  Or to a share of it, as a student may that varies too little.
  """
  end = share * SPREAD / jnp.sqrt(_variance(t))
  return x * trigflow.expand((jnp.cos(t) - end) / jnp.sin(t), x)


def _part(F, kind, steps):
  config = networks.UNetConfig(
    resolution=4,
    in_channels=1,
    num_classes=0,
    sigma_d=SIGMA_D,
    channel_mult=(1,),
  )
  network = networks.Network(lambda key: {}, F, lambda *args: 0.0, config)
  model = Sampler(network, {}, PixelCodec(0.0, 0.5, SIGMA_D), kind)
  return composition.Part(model, np.float32(1.0), steps, False)


PARTS = {
  "student": (_jump, "consistency", 1),
  "teacher": (_velocity, "diffusion", 64),
}


@pytest.mark.parametrize("name", PARTS)
def test_a_part_ends_where_the_trajectory_does(name):
  """From noise, and from what was noised to a middle time."""
  part = _part(*PARTS[name])
  u = np.random.default_rng(0).normal(size=(1, 64, 4, 4, 1))
  u, label = jnp.asarray(u, jnp.float32), jnp.zeros(64, jnp.int32)
  for begun, t in ((part, math.atan(80 / SIGMA_D)), (part.later(T_MID), T_MID)):
    expected = SIGMA_D * u[0] * SPREAD / math.sqrt(_variance(t))
    found = begun.integrate(u, label)
    # The solver's own error, which falls with the square of its steps.
    np.testing.assert_allclose(found, expected, rtol=6e-3, atol=1e-6)


def test_exact_parts_draw_the_same_however_they_are_joined():
  """And a part that errs shows in the row where it is."""
  parts = {name: _part(*PARTS[name]) for name in PARTS}
  half = functools.partial(_jump, share=0.5)
  wrong = _part(half, "consistency", 1)
  index = np.arange(256)
  batch = index, np.zeros(256, np.int32), None

  def draw(first, second):
    images = composition.draw(first, second, np.int32(0), batch, t_mid=T_MID)
    return (np.asarray(images) / 127.5 - 1.0) * SIGMA_D / 0.5

  drawn = [draw(a, b) for a in parts.values() for b in parts.values()]
  for images in drawn:
    assert np.std(images) == pytest.approx(SPREAD, rel=0.05)
    np.testing.assert_allclose(images, drawn[0], atol=2.5 / 127.5)
  # Noise covers most of what the first part did wrong, and nothing of what the
  # second one does.
  begun, ended = draw(wrong, parts["teacher"]), draw(parts["teacher"], wrong)
  assert np.std(begun) == pytest.approx(SPREAD, rel=0.05)
  assert np.std(ended) == pytest.approx(SPREAD / 2, rel=0.1)


def test_data_are_noised_with_the_same_noise():
  codec = PixelCodec(0.0, 0.5, SIGMA_D)
  stored = np.random.default_rng(1).integers(64, 192, (8, 4, 4, 1), np.uint8)
  index, label = np.arange(8), np.zeros(8, np.int32)
  second = _part(*PARTS["student"])
  found = composition.draw(
    None, second, np.int32(3), (index, label, stored), t_mid=T_MID
  )
  z = SIGMA_D * samplers.draw_noise(3, index, 2, (4, 4, 1))[1]
  x_t = trigflow.interpolate(codec.encode(stored), z, jnp.full(8, T_MID))
  expected = codec.decode(x_t * SPREAD / math.sqrt(_variance(T_MID)))
  difference = np.abs(np.asarray(found, int) - np.asarray(expected, int))
  assert difference.max() <= 1


@pytest.mark.parametrize(
  "fields", [{"guidance": ((1.0, 1.2),)}, {"times": ((0.9,),)}]
)
def test_a_part_has_one_scale_and_the_second_time(fields):
  request = Request(CandidateGrid(("one",), **fields), then="other")
  with pytest.raises(ConfigError, match="one guidance scale, at --t-mid"):
    composition.Compositions(request)
