"""The endless path through noise."""

import numpy as np

from scm_jax.serving import walk


def test_noise_is_unit_noise_everywhere_on_the_path():
  for at in (0.0, 1.7, 123.4, -9e5):
    np.testing.assert_allclose(np.sum(walk.weights(at) ** 2), 1, rtol=1e-6)


def test_the_path_is_smooth_and_never_comes_back():
  places = np.linspace(0, 60, 6001)
  path = np.array([walk.weights(at) for at in places])
  speed = np.linalg.norm(np.diff(path, axis=0), axis=1) / np.diff(places)
  # The root mean square of the circles' speeds, 1, 2 and 3 squared.
  np.testing.assert_allclose(speed, np.sqrt(2), rtol=1e-3)
  distance = np.linalg.norm(path[300:] - path[0], axis=1)
  assert distance.min() > 0.2


def test_each_image_has_a_path_of_its_own(models):
  sampler = models["student"].sampler
  noise = walk.noise(sampler, 0.3, num=4, steps=2, seed=5)
  assert noise.shape == (2, 4, *sampler.data_shape)
  flat = noise.reshape(8, -1)
  assert len(np.unique(flat, axis=0)) == 8
  near = walk.noise(sampler, 0.3001, num=4, steps=2, seed=5)
  assert np.abs(near - noise).max() < 1e-2
  far = walk.noise(sampler, 30.0, num=4, steps=2, seed=5)
  assert abs(np.corrcoef(far.ravel(), noise.ravel())[0, 1]) < 0.9
  many = walk.noise(sampler, 0.3, num=64, steps=2, seed=5)
  assert abs(many.std() - 1) < 0.05 and abs(many.mean()) < 0.05
  # Path `i` is a function of the seed and of `i`.
  np.testing.assert_array_equal(many[:, :4], noise)


def test_a_solver_takes_one_draw(models):
  sampler = models["teacher"].sampler
  assert len(walk.noise(sampler, 0.3, num=2, steps=4)) == 1
