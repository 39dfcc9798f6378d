"""Opening datasets: splits, padding, other TFDS datasets, and bad configs."""

import io
import json
import shutil

import numpy as np
import pytest
import tensorflow_datasets as tfds
from ml_collections import ConfigDict
from PIL import Image

from scm_jax.data import elements, sources
from scm_jax.defaults import get_defaults
from scm_jax.errors import ConfigError, UserError


class Photos(tfds.core.GeneratorBasedBuilder, skip_registration=True):
  """Six 4x6 RGB images of three classes: a TFDS dataset not of this project."""

  name = "photos"
  VERSION = tfds.core.Version("2.0.0")
  url_infos = None
  features = {
    "image": tfds.features.Image(shape=(4, 6, 3)),
    "label": tfds.features.ClassLabel(num_classes=3),
  }

  def _info(self):
    features = tfds.features.FeaturesDict(self.features)
    return tfds.core.DatasetInfo(builder=self, features=features)

  def _split_generators(self, dl_manager):
    return {
      "train": self._generate_examples(6),
      "test": self._generate_examples(1),
    }

  def _generate_examples(self, count):
    for i in range(count):
      file = io.BytesIO()
      Image.fromarray(np.full((4, 6, 3), i + 1, np.uint8)).save(file, "PNG")
      file.seek(0)
      example = {"image": file, "label": i % 3, "other": i}
      yield i, {key: example[key] for key in self.features}


class VaryingPhotos(Photos, skip_registration=True):
  name = "varying_photos"
  features = {**Photos.features, "image": tfds.features.Image()}


class UnlabelledPhotos(Photos, skip_registration=True):
  name = "unlabelled_photos"
  features = {"image": Photos.features["image"]}


class NoPhotos(Photos, skip_registration=True):
  name = "no_photos"
  features = {"other": tfds.features.Scalar(np.int32)}


@pytest.fixture(scope="module")
def photos_dir(tmp_path_factory) -> str:
  folder = tmp_path_factory.mktemp("photos")
  for builder in (Photos, VaryingPhotos, UnlabelledPhotos, NoPhotos):
    builder(data_dir=folder, file_format="array_record").download_and_prepare()
  return str(folder)


def photos(photos_dir, **changes) -> ConfigDict:
  config = get_defaults().data
  own = dict(name="photos", size=6, num_classes=3)
  config.update({**own, "data_dir": photos_dir, **changes})
  return config


def digits(data_dir, **changes) -> ConfigDict:
  config = dict(name="scm_digits", size=8, channels=1, num_classes=10)
  return photos(data_dir, **{**config, **changes})


def test_splits_and_slices(data_dir):
  whole = sources.open_source(digits(data_dir))
  head = sources.open_source(digits(data_dir, split="train[:80%]"))
  tail = sources.open_source(digits(data_dir, split="train[80%:]"))
  assert (len(head), len(tail)) == (1438, 359)
  for i in (0, 700, 1437):
    np.testing.assert_array_equal(head[i]["image"], whole[i]["image"])
  for i in (0, 358):
    np.testing.assert_array_equal(tail[i]["image"], whole[1438 + i]["image"])
    assert tail[i]["label"] == whole[1438 + i]["label"]


def test_prepared_dataset_is_opened_and_padded(photos_dir):
  source = sources.open_source(photos(photos_dir, size=9))
  assert len(source) == 6
  values = set()
  for i in range(6):
    image, label = source[i]["image"], source[i]["label"]
    assert image.shape == (9, 9, 3) and image.dtype == np.uint8
    value = int(image.max())
    # 5 rows are missing: 2 above, 3 below; 3 columns: 1 left, 2 right.
    np.testing.assert_array_equal(image[2:6, 1:7], value)
    assert image.sum(dtype=int) == 4 * 6 * 3 * value
    assert label == (value - 1) % 3
    values.add(value)
  assert values == set(range(1, 7))


def test_elements_are_cached_and_protected(photos_dir):
  source = sources.open_source(photos(photos_dir))
  first = source[3]
  source.records = [None] * 6  # what was read once is not read again
  assert source[3]["image"] is first["image"]
  with pytest.raises(ValueError, match="read-only"):
    first["image"][0, 0, 0] = 1
  first["label"] = 99
  assert source[3]["label"] != 99


def test_large_datasets_are_not_cached(photos_dir, monkeypatch):
  monkeypatch.setattr(elements, "CACHE_BYTES", 6 * 6 * 6 * 3 - 1)
  source = sources.open_source(photos(photos_dir))
  assert source[3]["image"] is not source[3]["image"]
  np.testing.assert_array_equal(source[3]["image"], source[3]["image"])


def test_index_out_of_range(photos_dir):
  source = sources.open_source(photos(photos_dir))
  for index in (-1, 6):
    with pytest.raises(IndexError):
      source[index]
  assert len(list(source)) == 6


def test_unlabelled_images_without_classes(photos_dir):
  config = photos(photos_dir, name="unlabelled_photos", num_classes=0)
  source = sources.open_source(config)
  assert [source[i]["label"] for i in range(6)] == [0] * 6


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"size": 5}, "4x6 images, larger than config.data.size=5"),
    ({"channels": 1}, "3-channel images, not config.data.channels=1"),
    ({"num_classes": 2}, r"labels 0\.\.2, more than config.data.num_classes=2"),
    ({"split": "valid"}, r"data.split='valid' .* train \(6\), test \(1\)"),
    ({"split": "train[:7]"}, r"data.split='train\[:7\]' selects no images"),
    ({"split": "train[:50"}, "selects no images"),
    ({"split": "train[4:2]"}, "selects no images"),
    ({"split": ""}, "selects no images"),
    ({"name": "varying_photos"}, "images of varying size"),
    ({"name": "no_photos"}, "no uint8 'image' feature"),
    ({"name": "unlabelled_photos"}, "no class 'label' feature"),
  ],
)
def test_config_that_does_not_fit(photos_dir, changes, message):
  with pytest.raises(ConfigError, match=message) as error:
    sources.open_source(photos(photos_dir, **changes))
  assert "\n" not in str(error.value)


@pytest.mark.parametrize(
  "name", ["cifar10", "imagenet_resized/64x64", "scm_digit", "no such", ""]
)
def test_dataset_that_is_not_there(photos_dir, name):
  with pytest.raises(UserError, match="is neither built in") as error:
    sources.open_source(photos(photos_dir, name=name))
  message = str(error.value)
  assert error.value.exit_code == 1
  assert "scm_digits" in message and "\n" not in message
  command = f"tfds build {name} --file_format=array_record --data_dir="
  assert command + photos_dir in message


def test_latents_that_are_not_there(photos_dir):
  config = photos(
    photos_dir, kind="latents", name="imagenet512_latents", size=64, channels=4
  )
  with pytest.raises(UserError, match="is neither built in") as error:
    sources.open_source(config)
  message = str(error.value)
  assert "'latent' [64, 64, 8]" in message and photos_dir in message
  assert "config.data.name" in message and "\n" not in message


def test_dataset_in_another_format(photos_dir, tmp_path):
  shutil.copytree(f"{photos_dir}/photos", tmp_path / "photos")
  path = tmp_path / "photos/2.0.0/dataset_info.json"
  info = json.loads(path.read_text())
  path.write_text(json.dumps({**info, "fileFormat": "tfrecord"}))
  with pytest.raises(UserError, match="not stored as array_record") as error:
    sources.open_source(photos(str(tmp_path)))
  assert "tfds build photos --file_format=array_record" in str(error.value)
  assert "\n" not in str(error.value)


def test_a_damaged_record_behind_the_first(photos_dir, tmp_path):
  shutil.copytree(f"{photos_dir}/photos", tmp_path / "photos")
  source = sources.open_source(photos(str(tmp_path)))
  with pytest.raises(UserError, match="cannot be read .*no such record"):
    source.records = Broken(len(source))
    source[len(source) - 1]


class Broken:
  """Records that a disk does not give."""

  def __init__(self, count):
    self.count = count

  def __len__(self):
    return self.count

  def __getitem__(self, index):
    raise RuntimeError("no such record")


@pytest.mark.parametrize("keep", [None, 0, 30000])
def test_damaged_files(photos_dir, tmp_path, keep):
  shutil.copytree(f"{photos_dir}/photos", tmp_path / "photos")
  (path,) = tmp_path.glob("photos/2.0.0/photos-train.array_record*")
  if keep is None:
    path.unlink()
  else:
    path.write_bytes(path.read_bytes()[:keep])
  with pytest.raises(UserError, match="cannot be read") as error:
    sources.open_source(photos(str(tmp_path)))
  assert str(tmp_path / "photos/2.0.0") in str(error.value)
  assert "\n" not in str(error.value)
