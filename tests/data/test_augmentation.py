"""EDM's augmentation: what it does to pixels, and what it tells the network."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scm_jax.data import augmentation
from scm_jax.networks import AUGMENTATIONS

NOISE = jnp.asarray(
  np.random.default_rng(0).normal(size=(8, 8, 3)), jnp.float32
)


def change(**fields):
  """One that does nothing but what is given."""
  fields = {name: jnp.float32(value) for name, value in fields.items()}
  still = {name: jnp.float32(0) for name in augmentation.Change._fields}
  return augmentation.Change(**still | {"move": jnp.zeros(2)} | fields)


@jax.jit
def apply(image, change):
  return augmentation.apply(image, change)


def smooth():
  """Two bells, `[32, 32, 2]`."""
  x, y = np.meshgrid(*2 * [np.linspace(-1, 1, 32)])
  bells = [
    np.exp(-4 * ((x - 0.2) ** 2 + y**2)),
    np.exp(-3 * (x**2 + (y + 0.3) ** 2)),
  ]
  return jnp.asarray(np.stack(bells, -1), jnp.float32)


def test_nothing_is_done_without_a_probability():
  images = jnp.stack([NOISE, 2 * NOISE])
  same, told = augmentation.augment(images, jax.random.key(0), 0.0)
  np.testing.assert_array_equal(same, images)
  np.testing.assert_array_equal(told, np.zeros((2, AUGMENTATIONS)))


def test_upright_images_have_the_other_changes():
  images, key = jnp.broadcast_to(NOISE, (64, 8, 8, 3)), jax.random.key(0)
  turned, told = augmentation.augment(images, key, 1.0)
  upright, kept = augmentation.augment(images, key, 1.0, upright=True)
  turning = np.isin(np.arange(AUGMENTATIONS), (1, 3, 4))
  assert np.all(np.any(told[:, turning] != 0, 0))
  np.testing.assert_array_equal(kept[:, turning], 0)
  np.testing.assert_array_equal(kept[:, ~turning], told[:, ~turning])
  assert np.any(turned != upright)


def test_flips_permute_the_pixels_to_the_bit():
  for fields, expected in (
    ({}, NOISE),
    ({"mirror": 1}, NOISE[:, ::-1]),
    ({"flip": 1}, NOISE[::-1]),
    ({"mirror": 1, "flip": 1}, NOISE[::-1, ::-1]),
  ):
    np.testing.assert_array_equal(apply(NOISE, change(**fields)), expected)


def test_resampling_in_place_is_the_identity():
  same = augmentation.resample(NOISE, jnp.eye(2), jnp.zeros(2))
  np.testing.assert_allclose(same, NOISE, atol=2e-6)


@pytest.mark.parametrize("quarters", [1, 2, 3])
def test_quarter_turns_permute_the_pixels(quarters):
  turned = apply(NOISE, change(angle=quarters * np.pi / 2))
  np.testing.assert_allclose(turned, np.rot90(NOISE, quarters), atol=1e-5)


@pytest.mark.parametrize("pixels", [(3, 0), (-2, 1), (11, -9)])
def test_whole_moves_shift_and_reflect(pixels):
  """Rightwards and downwards, also by more than a side."""
  right, down = pixels
  move = np.array(pixels) / (augmentation.MOVE * 8)
  index = lambda shift: 7 - np.abs((np.arange(8) - shift) % 14 - 7)
  expected = np.asarray(NOISE)[index(down)][:, index(right)]
  moved = apply(NOISE, change(move=move))
  np.testing.assert_allclose(moved, expected, atol=1e-5)


@pytest.mark.parametrize(
  ("there", "back"),
  [
    ({"angle": 0.8}, {"angle": -0.8}),
    ({"scale": 1.2}, {"scale": -1.2}),
    ({"stretch": 1, "axis": 0.7}, {"stretch": -1, "axis": 0.7}),
    ({"move": (0.4, -0.3)}, {"move": (-0.4, 0.3)}),
  ],
)
def test_a_smooth_image_comes_back(there, back):
  image = smooth()
  away = apply(image, change(**there))
  again = apply(away, change(**back))
  inner = np.s_[6:-6, 6:-6]  # what came from beyond the border does not
  assert np.abs(away - image)[inner].max() > 0.04
  np.testing.assert_allclose(again[inner], image[inner], atol=0.006)


def test_a_shape_is_scaled_turned_and_stretched():
  """The second moments of a bell, against the map that it underwent."""
  x, y = np.meshgrid(*2 * [np.arange(48) - 23.5])
  image = jnp.asarray(np.exp(-(x**2 / 18 + y**2 / 8)), jnp.float32)[..., None]
  fields = {"scale": 1.5, "angle": 0.5, "stretch": -1.0, "axis": 1.1}
  bell = np.asarray(apply(image, change(**fields)))[..., 0]
  points = np.stack([x.ravel(), -y.ravel()])  # y upwards
  found = (points * bell.ravel()) @ points.T / bell.sum()

  def rotation(angle):
    return np.array(
      [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    )

  axis = rotation(1.1)
  widths = np.diag(2.0 ** np.array([-0.2, 0.2]))
  whole = axis @ widths @ axis.T @ rotation(0.5) * 2.0 ** (0.2 * 1.5)
  expected = whole @ np.diag([9.0, 4.0]) @ whole.T
  np.testing.assert_allclose(found, expected, rtol=0.02, atol=0.1)


def test_halving_removes_what_a_smaller_image_cannot_hold():
  """A pattern of one pixel, shrunk to a half, is grey and not a pattern."""
  columns = (-1.0) ** np.arange(32)
  image = jnp.asarray(np.tile(columns, (32, 1))[..., None], jnp.float32)
  back = jnp.diag(jnp.array([1.6, 1.6]))
  small = augmentation.resample(image, back, jnp.zeros(2))
  plain = np.asarray(image)[::2, ::2]
  assert np.std(plain) == 0  # every second pixel is a constant: an alias
  assert np.std(small[8:-8, 8:-8]) < 0.35 and abs(np.mean(small)) < 0.1


def test_the_distribution_of_what_is_told():
  probability, number = 0.12, 40_000
  keys = jax.random.split(jax.random.key(5), number)
  draw = lambda key: augmentation.draw(key, probability).condition
  told = np.asarray(jax.jit(jax.vmap(draw))(keys), np.float64)
  mirror, flip, scale, cosine, sine, u, v, right, down = told.T
  rate = lambda x: np.mean(x != 0)
  assert rate(mirror) == pytest.approx(0.5, abs=0.01)
  assert rate(flip) == pytest.approx(probability / 2, abs=0.006)
  for changed in (scale, sine, np.hypot(u, v), right):
    assert rate(changed) == pytest.approx(probability, abs=0.008)
  for normal in (scale, right, down):
    kept = normal[normal != 0]
    assert np.std(kept) == pytest.approx(1, abs=0.05)
    assert np.mean(kept) == pytest.approx(0, abs=0.06)
  squares = (u**2 + v**2)[u**2 + v**2 > 0]
  assert np.mean(squares) == pytest.approx(1, abs=0.08)
  # Angles are uniform over the whole turn, and lie on the circle.
  turned = sine != 0
  np.testing.assert_allclose((cosine + 1) ** 2 + sine**2, 1, atol=1e-5)
  angles = np.sort(np.arctan2(sine, cosine + 1)[turned])
  uniform = np.linspace(-np.pi, np.pi, len(angles))
  assert np.abs(angles - uniform).max() < 0.15
  # Half of the axes are the image's own.
  assert rate(v[u != 0]) == pytest.approx(0.5, abs=0.03)
  # Changes are drawn apart.
  both = np.mean((scale != 0) & (sine != 0))
  assert both == pytest.approx(probability**2, abs=0.003)
  correlations = np.corrcoef(told.T) - np.eye(AUGMENTATIONS)
  assert np.abs(correlations).max() < 0.05


def test_an_image_is_changed_by_its_own_key():
  """Not by its neighbours, nor by how many there are."""
  images = jnp.stack([NOISE + i for i in range(6)])
  augment = jax.jit(lambda x: augmentation.augment(x, jax.random.key(2), 1.0))
  changed, told = augment(images)
  others = images.at[:3].set(0.0)
  again, told_again = augment(others)
  np.testing.assert_array_equal(told, told_again)
  np.testing.assert_array_equal(changed[3:], again[3:])
  assert len(np.unique(np.asarray(told), axis=0)) == 6
