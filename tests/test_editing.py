"""Editing and interpolation: what is kept, and what is drawn."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scm_jax import editing, samplers, trigflow
from scm_jax.errors import UserError

SIGMA_D = 0.5
TIMES = samplers.consistency_times(3, SIGMA_D)


def student_F(u, t, cond):
  """Of `f(x, t) = tanh(2 x)`, of no use but to map anything to [-1, 1]."""
  del cond
  cos, sin = (trigflow.expand(f(t), u) for f in (jnp.cos, jnp.sin))
  return (cos * u - jnp.tanh(2 * SIGMA_D * u) / SIGMA_D) / sin


def normal(*shape, seed=0):
  draw = np.random.default_rng(seed).normal(size=shape)
  return jnp.asarray(draw, jnp.float32)


@pytest.fixture(scope="module")
def noise():
  return normal(len(TIMES), 2, 4, 4, 3)


@pytest.fixture(scope="module")
def reference():
  return normal(2, 4, 4, 3, seed=1)


def edit(noise, reference, times=TIMES, **options):
  plan = editing.Plan(times, **options)
  return editing.edit(student_F, noise, reference, {}, SIGMA_D, plan)


@pytest.mark.parametrize("axes", ["HW", "BHWC"])
def test_known_pixels_are_kept_exactly(axes, noise, reference):
  rng = np.random.default_rng(2)
  mask = rng.random((4, 4) if axes == "HW" else reference.shape) < 0.5
  known = editing.pixels(mask)
  x0 = np.asarray(edit(noise, reference, known=known))
  where = np.broadcast_to(known.mask, x0.shape)
  np.testing.assert_array_equal(x0[where], reference[where])
  drawn = np.asarray(edit(noise, reference, known=editing.pixels([[False]])))
  assert not np.isclose(x0[~where], np.asarray(reference)[~where]).any()
  # The first step has seen nothing of what is known; later ones have.
  assert not np.isclose(x0, drawn).all()


def test_nothing_leaks_from_what_is_not_known(noise, reference):
  known = editing.pixels(np.tri(4, dtype=bool))
  other = jnp.where(known.mask, reference, 7.0)
  np.testing.assert_array_equal(
    edit(noise, reference, known=known), edit(noise, other, known=known)
  )


def test_without_anything_known_it_is_the_sampler(noise, reference):
  sample, _ = samplers.consistency(student_F, noise, {}, TIMES, SIGMA_D)
  np.testing.assert_allclose(edit(noise, reference), sample, rtol=1e-5)


@pytest.mark.parametrize(
  "known", [editing.patch_means(2), editing.grey(), editing.grey((1, 2, 1))]
)
def test_transforms_are_orthogonal(known, reference):
  A = known.transform
  y = A.forward(reference)
  norm = jnp.linalg.norm
  np.testing.assert_allclose(norm(y), norm(reference), rtol=1e-6)
  np.testing.assert_allclose(A.inverse(y), reference, atol=1e-6)
  # Linear of full rank and norm-preserving: the inverse is the transpose.
  x = normal(*reference.shape, seed=3)
  np.testing.assert_allclose(
    jnp.vdot(A.forward(x), y), jnp.vdot(x, reference), rtol=1e-4
  )


def test_means_of_patches_are_kept(noise, reference):
  x0 = edit(noise, reference, known=editing.patch_means(2))
  means = lambda x: np.asarray(x).reshape(2, 2, 2, 2, 2, 3).mean((2, 4))
  np.testing.assert_allclose(means(x0), means(reference), atol=1e-6)
  assert np.abs(x0 - reference).mean() > 0.1
  with pytest.raises(ValueError, match="patches of 3x3 do not fill"):
    edit(noise, reference, known=editing.patch_means(3))
  with pytest.raises(UserError, match="patches of 0"):
    editing.patch_means(0)
  for weights in ((0.0, 0.0), (float("nan"), 1.0)):
    with pytest.raises(UserError, match="must be finite"):
      editing.grey(weights)


def test_grey_levels_are_kept(noise, reference):
  x0 = edit(noise, reference, known=editing.grey())
  luma = lambda x: np.asarray(x) @ np.asarray(editing.LUMA)
  np.testing.assert_allclose(luma(x0), luma(reference), atol=1e-6)
  assert np.abs(x0 - reference).mean() > 0.1


def test_strokes_stay_as_far_as_they_are_not_noised(noise, reference):
  """`f` is `tanh(2 x)`, which the noise of a small time hardly moves."""

  def distance(start):
    times = editing.times(1, start)
    x0 = edit(noise[:1], reference, times, sketch=True)
    return float(jnp.abs(x0 - jnp.tanh(2 * reference)).mean())

  near, middle, far = map(distance, (1e-3, 0.4, 1.5))
  assert near < 1e-3 < middle < far


def test_times():
  np.testing.assert_allclose(editing.times(3, 1.2), (1.2, 0.8, 0.4))
  with pytest.raises(ValueError, match="between 0 and pi/2"):
    editing.times(2, 1.6)


def test_slerp_keeps_the_norm():
  a, b = normal(4, 4, 1), normal(4, 4, 1, seed=1)
  b = b / jnp.linalg.norm(b) * jnp.linalg.norm(a)
  weights = np.linspace(0, 1, 6)
  path = editing.slerp(a, b, weights)
  assert path.shape == (6, 4, 4, 1)
  norms = jnp.linalg.norm(path.reshape(6, -1), axis=1)
  np.testing.assert_allclose(norms, jnp.linalg.norm(a), rtol=1e-6)
  np.testing.assert_allclose(path[0], a, atol=1e-6)
  np.testing.assert_allclose(path[-1], b, atol=1e-6)
  # Even in angle: neighbours are equally far apart.
  gaps = jnp.linalg.norm(jnp.diff(path, axis=0).reshape(5, -1), axis=1)
  np.testing.assert_allclose(gaps, gaps[0], rtol=1e-5)
  np.testing.assert_allclose(editing.slerp(a, a, 0.3), a, rtol=1e-6)


@pytest.mark.slow
def test_paths_end_at_the_samples():
  """And say what the network was asked, and what it answered."""
  asked = []

  def F(u, t, cond):
    asked.append((u * SIGMA_D, t[0]))
    return student_F(u, t, cond)

  noise = normal(3, 2, 4)
  for solve, start, times in (
    (samplers.consistency, noise, samplers.consistency_times(3, SIGMA_D)),
    (samplers.heun, noise[0], samplers.ode_times(4, SIGMA_D)),
    (samplers.dpm_solver, noise[0], samplers.ode_times(4, SIGMA_D)),
    (samplers.dpm_solver, noise[0], samplers.ode_times(1, SIGMA_D)),
  ):
    asked.clear()
    with jax.disable_jit():
      x0, path = solve(F, start, {}, times, SIGMA_D)
    steps = len(times) - (solve is not samplers.consistency)
    assert path.times.shape == (steps,)
    assert path.x_t.shape == path.x0.shape == (steps, 2, 4)
    np.testing.assert_allclose(path.x0[-1], x0, atol=1e-5)
    np.testing.assert_allclose(path.x0, jnp.tanh(2 * path.x_t), atol=1e-5)
    # Heun's corrections are asked in between.
    every = 2 if solve is samplers.heun else 1
    for x_t, t, (u, time) in zip(
      path.x_t, path.times, asked[::every], strict=True
    ):
      np.testing.assert_allclose(x_t, u, rtol=1e-6)
      assert t == time
