"""How closely a network of sCM's form imitates the EDM2 network before it."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from scm_jax import networks, trigflow
from scm_jax.interop import imitation, partial_restore
from scm_jax.networks import magnitude

EDM2 = networks.UNetConfig(
  resolution=8,
  in_channels=2,
  num_classes=3,
  form="edm2",
  channels=32,
  channel_mult=(1,),
  num_blocks=1,
  attn_resolutions=(),
  channels_per_head=8,
)
GAINED = dataclasses.replace(EDM2, form="trigflow", double_norm="gained")
SHARED = dataclasses.replace(EDM2, form="trigflow", double_norm="shared")
NOISE_WEIGHT = ("denoiser", "embedding", "emb_noise", "weight")


def draw(config, seed=0):
  """Returns normalised weights, with gains of modulation of one half."""
  shapes = networks.build(config).shapes
  rng = np.random.default_rng(seed)

  def leaf(path, shape):
    if path[-1].key == "gain":
      return jnp.float32(0.5)
    if path[-1].key == "out_gain":
      return jnp.float32(1.0)
    return jnp.asarray(rng.normal(size=shape.shape), jnp.float32)

  params = jax.tree_util.tree_map_with_path(leaf, shapes)
  return magnitude.normalize_weights(params)


@functools.cache
def start(config):
  return jax.jit(networks.build(config).init)(jax.random.key(3))


@functools.cache
def compiled(config):
  return jax.jit(networks.build(config).F)


def distance(target, imitates):
  """Returns the relative distance between the outputs before and after."""
  params = draw(EDM2)
  flat = traverse_util.flatten_dict(start(target))
  taken, _ = partial_restore.restore(params, EDM2, target)
  flat |= traverse_util.flatten_dict(taken)
  if imitates:
    fitted = imitation.imitate(params, EDM2, target)
    assert fitted.keys() <= flat.keys()
    flat |= fitted
  started = magnitude.normalize_weights(traverse_util.unflatten_dict(flat))
  x = jax.random.normal(jax.random.key(1), (64, 8, 8, 2))
  z = -0.8 + 1.6 * jax.random.normal(jax.random.key(2), (64,))
  t = trigflow.sigma_to_time(jnp.exp(z), EDM2.sigma_d)
  cond = {"label": jnp.arange(64) % 3}
  old = compiled(EDM2)(params, x, t, cond)
  new = compiled(target)(started, x, t, cond)
  return np.linalg.norm(new - old) / np.linalg.norm(old)


@pytest.mark.slow
def test_gains_and_the_fitted_time_keep_most_of_the_function():
  kept = distance(GAINED, True)
  assert kept < 0.6
  assert kept < 0.6 * distance(SHARED, False)  # what was done before
  assert kept < 0.8 * distance(GAINED, False)  # each part is worth it
  assert kept < 0.8 * distance(SHARED, True)


def test_the_fitted_embedding_follows_the_old_one():
  params = draw(EDM2)
  fitted = imitation.imitate(params, EDM2, SHARED)
  assert fitted.keys() == {NOISE_WEIGHT}
  weight = fitted[NOISE_WEIGHT]
  np.testing.assert_allclose(np.mean(weight**2, axis=0), 1, rtol=1e-5)
  rng = np.random.default_rng(4)
  sigma = np.exp(-0.8 + 1.6 * rng.normal(size=500))
  old = params["denoiser"]["embedding"]
  turns = np.log(sigma)[:, None] / 4 * old["fourier"]["frequencies"]
  features = np.cos(2 * np.pi * (turns + old["fourier"]["phases"]))
  theirs = features @ np.asarray(old["emb_noise"]["weight"])
  angles = np.arctan(sigma / 0.5)[:, None] * 1e4 ** (-np.arange(16) / 15)
  ours = np.concatenate([np.cos(angles), np.sin(angles)], axis=1) @ weight
  correlation = lambda a, b: (
    np.sum(a * b) / np.sqrt(np.sum(a**2) * np.sum(b**2))
  )
  assert correlation(ours, theirs) > 0.6
  fresh = draw(EDM2, seed=7)["denoiser"]["embedding"]["emb_noise"]["weight"]
  drawn = np.concatenate([np.cos(angles), np.sin(angles)], axis=1) @ fresh
  assert abs(correlation(drawn, theirs)) < 0.3


@pytest.mark.slow
def test_filters_on_the_sphere_are_the_best_there():
  rng = np.random.default_rng(5)
  features = rng.normal(size=(40, 6)) * [3, 1, 1, 0.3, 0.1, 0.01]
  error = lambda filters, wanted: np.sum((features @ filters - wanted) ** 2, 0)
  on_sphere = lambda w: w / np.sqrt(np.mean(w**2, axis=0))
  # What lies on the sphere is found again.
  filters = on_sphere(rng.normal(size=(6, 5)))
  found = imitation.on_sphere(features, features @ filters)
  np.testing.assert_allclose(found, filters, atol=0.05)
  # Else nothing near it, nor plain least squares put there, is any better:
  # for what needs longer filters than there are, and for shorter ones.
  for size in (0.2, 1.0, 50.0):
    wanted = size * rng.normal(size=(40, 5))
    found = imitation.on_sphere(features, wanted)
    np.testing.assert_allclose(np.mean(found**2, axis=0), 1, rtol=1e-5)
    if size < 1:
      continue  # too short: its length is made up by what is seen least
    best = error(found, wanted)
    for _ in range(50):
      near = on_sphere(found + 0.05 * rng.normal(size=found.shape))
      assert (best <= error(near, wanted) * (1 + 1e-6)).all()
    plain = on_sphere(np.linalg.lstsq(features, wanted, rcond=None)[0])
    assert (best <= error(plain, wanted) * (1 + 1e-6)).all()


def test_nothing_is_imitated_between_equal_forms():
  assert imitation.imitate(draw(SHARED), SHARED, SHARED) == {}
  assert imitation.imitate(draw(EDM2), EDM2, EDM2) == {}


def test_the_shift_is_learnt_from_zero():
  """Its gain is zero at first and has a gradient."""
  network = networks.build(GAINED)
  params = jax.jit(network.init)(jax.random.key(0))
  params["denoiser"]["out_gain"] = jnp.float32(1.0)
  x = jax.random.normal(jax.random.key(1), (4, 8, 8, 2))
  cond = {"label": jnp.arange(4) % 3}
  loss = lambda p: jnp.sum(network.F(p, x, jnp.linspace(0.2, 1.4, 4), cond)[0])
  grads = traverse_util.flatten_dict(jax.jit(jax.grad(loss))(params))
  gains = [path for path in grads if path[-1] == "shift_gain"]
  assert len(gains) == 5
  for path in gains:
    assert traverse_util.flatten_dict(params)[path] == 0 and grads[path] != 0
