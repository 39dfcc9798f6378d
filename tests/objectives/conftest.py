"""Small problems in float64: a network function, parameters and a batch."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array

from scm_jax import networks, trigflow
from scm_jax.networks import magnitude
from scm_jax.objectives import Point, Student
from scm_jax.objectives.tangent import Direction, Jump

SIGMA_D = 0.5
BATCH = 4


@dataclasses.dataclass(frozen=True)
class Problem:
  """All that an objective is given, and a velocity for sCD."""

  F: Callable
  w: Callable
  params: Any
  x0: Array
  z: Array
  t: Array
  cond: dict[str, Array]
  rngs: dict[str, Array]
  sigma_d: float = SIGMA_D

  @property
  def x_t(self) -> Array:
    return trigflow.interpolate(self.x0, self.z, self.t)

  @property
  def point(self) -> Point:
    """The batch, as objectives take it."""
    return Point(self.x0, self.z, self.t, self.cond, self.rngs)

  @property
  def student(self) -> Student:
    """The network, as objectives take it."""
    return Student(self.F, self.w)

  def direction(self, dx_dt: Array) -> Direction:
    """The noisy samples and the direction in which they go."""
    return Direction(self.x_t, dx_dt, Jump(self.t, self.sigma_d))

  def primal(self, u: Array, t: Array) -> Array:
    """The network at `(x / sigma_d, t)`, dropout on."""
    return self.F(self.params, u, t, self.cond, rngs=self.rngs, train=True)

  def velocity(self, x_t: Array, t: Array, cond: dict[str, Array]) -> Array:
    """Some smooth teacher."""
    shift = trigflow.expand(t + cond["label"], x_t)
    return jnp.sin(2 * x_t + shift) / 2


@pytest.fixture(autouse=True)
def float64() -> Iterator[None]:
  """Computes in float64, so that only mathematics can differ."""
  with jax.enable_x64(True):
    yield


def _batch(shape: tuple[int, ...]) -> dict[str, Any]:
  rng = np.random.default_rng(0)
  draw = lambda: jnp.asarray(rng.normal(0, SIGMA_D, (BATCH, *shape)))
  return {
    "x0": draw(),
    "z": draw(),
    "t": jnp.array([0.05, 0.5, 1.1, 1.5]),
    "cond": {"label": jnp.arange(BATCH) % 3},
    "rngs": {"dropout": jax.random.key(1, impl="rbg")},
  }


def mlp_F(params, u, t, cond, *, rngs=None, train=False):
  """A network without Flax, with dropout of its own."""
  h = u.reshape(len(u), -1) @ params["in"]
  h += t[:, None] * params["time"] + params["label"][cond["label"]]
  h = jnp.tanh(h)
  if train and rngs:
    h *= jax.random.bernoulli(rngs["dropout"], 0.7, h.shape) / 0.7
  return jnp.sin(h @ params["out"]).reshape(u.shape)


@pytest.fixture
def mlp() -> Problem:
  rng = np.random.default_rng(2)
  draw = lambda *shape: jnp.asarray(rng.normal(0, 0.5, shape))
  params = {
    "in": draw(12, 16),
    "time": draw(16),
    "label": draw(3, 16),
    "out": draw(16, 12),
    "w": draw(2),
  }
  w = lambda params, t: params["w"][0] + params["w"][1] * jnp.sin(t)
  return Problem(mlp_F, w, params, **_batch((2, 2, 3)))


def unet(**fields: Any) -> Problem:
  """A U-Net with random weights and dropout."""
  config = networks.UNetConfig(
    resolution=4,
    in_channels=2,
    num_classes=3,
    channels=8,
    channel_mult=(1,),
    num_blocks=1,
    channels_per_head=4,
    dropout=0.3,
    dtype=jnp.float64,
    **fields,
  )
  network = networks.build(config)
  rng = np.random.default_rng(3)
  params = jax.tree.map(
    lambda leaf: jnp.asarray(rng.normal(size=leaf.shape)),
    network.shapes,
  )
  params = magnitude.normalize_weights(params)
  params["weighting"] = jax.tree.map(lambda p: p / 8, params["weighting"])
  return Problem(network.F, network.w, params, **_batch((4, 4, 2)))


@pytest.fixture
def attention_unet() -> Problem:
  return unet(attn_resolutions=(4,))


@pytest.fixture(params=["mlp", "attention_unet", "edm2_unet"])
def problem(request: pytest.FixtureRequest) -> Problem:
  """Each of the networks, in turn."""
  if request.param == "edm2_unet":
    return unet(form="edm2", attn_resolutions=())
  return request.getfixturevalue(request.param)
