"""TFDS datasets as sources: their images as files, and what is not there."""

import pytest

from scm_jax.errors import ConfigError, UserError
from scm_jax.preparing import options

FLAGS = ("--size=8", "--name=photos", "--shards=2")


def test_dataset_of_tfds(prepare, tmp_path, opened, data_dir):
  out, _ = prepare("tfds:scm_digits", tmp_path, *FLAGS, "--split=train[:20]")
  assert "is made: 20 images of 10 classes" in out
  source = opened(tmp_path, size=8, num_classes=10)
  digits = opened(
    data_dir,
    name="scm_digits",
    split="train[:20]",
    size=8,
    channels=1,
    num_classes=10,
  )
  found = {
    source[i]["image"][..., :1].tobytes(): source[i]["label"] for i in range(20)
  }
  wanted = {digits[i]["image"].tobytes(): digits[i]["label"] for i in range(20)}
  assert found == wanted and len(found) == 20


def test_other_images_of_tfds_are_not_those_of_the_dataset(prepare, tmp_path):
  first = "--split=train[:20]"
  prepare("tfds:scm_digits", tmp_path, *FLAGS, first)
  out, _ = prepare("tfds:scm_digits", tmp_path, *FLAGS, first)
  assert "complete and verified" in out
  for source, split in (("scm_digits", "train[20:40]"), ("scm_mnist5k", first)):
    flags = *FLAGS, f"--split={split.removeprefix('--split=')}"
    _, error = prepare(f"tfds:{source}", tmp_path, *flags, code=1)
    assert "made with other options or images (source.name: " in error


def test_what_is_not_there(tmp_path):
  def listed(name, split="train"):
    return options.open_source(f"tfds:{name}", split, str(tmp_path)).index()

  with pytest.raises(ConfigError, match="TFDS has no dataset 'no_such'"):
    listed("no_such")
  with pytest.raises(UserError, match="by hand.*ILSVRC2012_img_train") as error:
    listed("imagenet2012")
  assert f"{tmp_path}/downloads/manual" in str(error.value)


def test_default_source():
  assert options.default_source("imagenet64") == "tfds:imagenet2012"
  assert options.default_source("imagenet512_latents") == "tfds:imagenet2012"
  assert options.default_source("cifar10") == "tfds:cifar10"
