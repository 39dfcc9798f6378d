"""Patches of photographs and their latents, which the tiny configs train on."""

import collections

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from scm_jax.codec import LatentCodec
from scm_jax.data import patches, pipeline, sources
from scm_jax.defaults import get_defaults
from scm_jax.errors import ConfigError

CODEC = LatentCodec(
  mean=(1.56, -0.695, 0.483, 0.729), std=(5.27, 5.91, 4.21, 4.31), sigma_d=0.5
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> str:
  return str(tmp_path_factory.mktemp("patches"))


def data_config(folder, **changes) -> ConfigDict:
  config = get_defaults().data
  own = dict(name="scm_patches/16x16", size=16, num_classes=10)
  config.update({**own, "data_dir": folder, **changes})
  return config


def latents_config(folder, **changes) -> ConfigDict:
  config = dict(kind="latents", name="scm_patch_latents", size=8, channels=4)
  return data_config(folder, **{**config, **changes})


@pytest.fixture(scope="module")
def windows() -> tuple[np.ndarray, np.ndarray]:
  return patches.load_windows()


@pytest.fixture(scope="module")
def latents(folder) -> list:
  source = sources.open_source(latents_config(folder))
  return [source[i] for i in range(len(source))]


def test_windows_are_cut_from_the_photographs(windows):
  from sklearn import datasets

  images, labels = windows
  assert images.shape == (1702, 64, 64, 3) and images.dtype == np.uint8
  china, flower = datasets.load_sample_images().images
  np.testing.assert_array_equal(images[0], china[:64, :64])
  np.testing.assert_array_equal(images[37 + 1], china[16:80, 16:80])
  np.testing.assert_array_equal(images[-1], flower[352:416, 576:640])
  counts = collections.Counter(labels.tolist())
  assert sorted(counts) == list(range(10)) and min(counts.values()) > 100
  assert labels[0] == 0 and labels[36] == 4 and labels[-1] == 9


def test_images_are_averages_of_the_windows(folder, windows):
  source = sources.open_source(data_config(folder))
  assert len(source) == 1702
  expected = {}
  for window, label in zip(*windows, strict=True):
    sums = window.reshape(16, 4, 16, 4, 3).sum(axis=(1, 3), dtype=int)
    expected[np.rint(sums / 16).astype(np.uint8).tobytes()] = label
  for i in range(0, 1702, 50):
    assert expected[source[i]["image"].tobytes()] == source[i]["label"]


def test_a_variant_that_is_not_there_is_one_line(folder):
  with pytest.raises(ConfigError, match="did you mean '16x16'") as error:
    sources.open_source(data_config(folder, name="scm_patches/16x15"))
  assert "\n" not in str(error.value)


def test_latents_are_means_and_deviations(latents):
  image = latents[0]["image"]
  assert image.shape == (8, 8, 8) and image.dtype == np.float16
  assert type(latents[0]["label"]) is int
  std = np.stack([e["image"][..., 4:] for e in latents]).astype(float)
  assert std.min() >= 0.049 and std.max() < 1.1 and std.std() > 0.05


def test_previews_of_latents_are_the_windows(latents, windows):
  """And the paper's constants nearly standardise them."""
  stored = np.stack([e["image"] for e in latents])
  x0 = CODEC.encode(jnp.asarray(stored), jax.random.key(0))
  assert np.abs(x0.mean((0, 1, 2))).max() < 0.3
  assert 0.4 < x0.std((0, 1, 2)).min() < x0.std((0, 1, 2)).max() < 0.7

  means = stored[::100].copy()
  means[..., 4:] = 0  # the deviations
  x0 = CODEC.encode(jnp.asarray(means), jax.random.key(0))
  averages = patches.blocks(windows[0], 8).mean(axis=3)
  for image in np.asarray(CODEC.decode(x0)):
    # float16 moves a colour by about one level.
    nearest = np.abs(averages - image).max(axis=(1, 2, 3)).min()
    assert nearest <= 1.5


def test_batches_of_latents(folder, latents):
  source = sources.open_source(latents_config(folder))
  batch = pipeline.Batches(source, batch_size=4, seed=0)[3]
  assert batch["image"].shape == (4, 8, 8, 8)
  assert batch["image"].dtype == np.float16
  known = {e["image"].tobytes() for e in latents}
  assert all(image.tobytes() in known for image in batch["image"])


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"size": 16}, r"latents of shape \(8, 8, 8\), not \(16, 16, 8\)"),
    ({"channels": 3}, r"not \(8, 8, 6\): means and deviations"),
    ({"name": "scm_patches/16x16"}, "no float16 or float32 'latent' feature"),
    ({"num_classes": 9}, "labels 0..9, more than config.data.num_classes=9"),
  ],
)
def test_latents_that_do_not_fit(folder, latents, changes, message):
  with pytest.raises(ConfigError, match=message):
    sources.open_source(latents_config(folder, **changes))
  with pytest.raises(ConfigError, match="no uint8 'image' feature"):
    sources.open_source(data_config(folder, name="scm_patch_latents", size=8))
