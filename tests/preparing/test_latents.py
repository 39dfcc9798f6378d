"""Latents: what is stored, by whatever devices, and from EDM2's files."""

import io
import json
import pathlib

import jax
import numpy as np
import pytest

FLAGS = ("--size=16", "--name=photos", "--shards=3", "--on-error=skip")
ENCODE = (*FLAGS, "--latents", "--batch-size=4")


@pytest.fixture
def stored(prepare, tree, tmp_path, autoencoder_folder):
  """Folder of datasets, and the command's flags."""
  flags = (*ENCODE, f"--autoencoder={autoencoder_folder}")
  out, _ = prepare(tree, tmp_path / "out", *flags)
  assert "is made: 30 latents of 3 classes" in out
  return tmp_path / "out", flags


def test_latents(stored, opened, autoencoder_folder, prepare, tree, tmp_path):
  from scm_jax.interop import autoencoder

  out, flags = stored
  prepare(tree, tmp_path / "images", *FLAGS)
  images = opened(tmp_path / "images")
  latents = opened(out, kind="latents", size=4, channels=4)
  network, params = autoencoder.load(autoencoder_folder)
  # Both datasets are in the same order.
  pixels = np.stack([images[i]["image"] for i in range(8)])
  scaled = pixels.astype(np.float32) / 127.5 - 1
  mean, std = jax.jit(network.encode)(params, scaled)
  found = np.stack([latents[i]["image"] for i in range(8)])
  assert found.dtype == np.float16 and found.shape == (8, 4, 4, 8)
  wanted = np.concatenate([mean, std], axis=-1)
  np.testing.assert_allclose(found, wanted, rtol=2e-3, atol=2e-3)
  assert [images[i]["label"] for i in range(30)] == [
    latents[i]["label"] for i in range(30)
  ]


def test_moments_and_verification(stored, prepare, tree, opened):
  out, flags = stored
  made = json.loads((out / "photos/1.0.0/manifest.json").read_text())
  source = opened(out, kind="latents", size=4, channels=4)
  all_ = np.stack([source[i]["image"] for i in range(30)]).astype(np.float64)
  mean, std = np.split(all_, 2, axis=-1)
  drawn = mean + std * np.random.default_rng(0).normal(size=(400, *mean.shape))
  axes = (0, 1, 2, 3)
  np.testing.assert_allclose(made["latents"]["mean"], mean.mean(axes[:3]))
  np.testing.assert_allclose(made["latents"]["std"], drawn.std(axes), rtol=0.01)
  stdout, _ = prepare(tree, out, *flags)
  assert "complete and verified: 30 latents" in stdout
  assert "latents' mean: " in stdout and "latents' std: " in stdout


def test_a_config_says_what_to_make(
  prepare, tree, tmp_path, opened, autoencoder_folder
):
  config = pathlib.Path(__file__).parents[2] / "configs/imagenet512.py"
  flags = (
    f"--config={config}:tiny,latents=edm2",
    f"--config.data.autoencoder={autoencoder_folder}",
    "--config.data.name=photo_latents",
    "--on-error=skip",
  )
  _, err = prepare(
    tree, tmp_path, *flags, "--config.data.num_classes=2", code=2
  )
  assert "has 3 classes, more than config.data.num_classes=2" in err
  _, err = prepare(tree, tmp_path, *flags, code=2)
  assert "has 3 folders of classes, fewer than" in err
  flags = (*flags, "--config.data.num_classes=3")
  _, err = prepare(tree, tmp_path, *flags, "--config.data.channels=32", code=2)
  assert "gives latents of 4 channels, and this config takes 32" in err
  out, _ = prepare(tree, tmp_path, *flags)
  assert "config.data.mean: 5.81, 3.25, 0.12, -2.15" in out
  wanted = dict(kind="latents", name="photo_latents", size=8, channels=4)
  source = opened(tmp_path, **wanted, image_range=(0.0, 1.0))
  assert source[0]["image"].shape == (8, 8, 8)


def test_range_is_remembered(stored, opened):
  out, _ = stored
  with pytest.raises(Exception, match=r"latents of images in \[-1.0, 1.0\]"):
    opened(out, kind="latents", size=4, channels=4, image_range=(0.0, 1.0))


def test_parts_give_the_same_bytes(stored, prepare, tree, tmp_path, content):
  out, flags = stored
  for part in ("1/2", "0/2"):
    prepare(tree, tmp_path / "parts", *flags, f"--shard={part}")
  assert content(tmp_path / "parts") == content(out)


@pytest.mark.slow
def test_eight_devices_give_the_same_bytes(
  stored, tree, python, tmp_path, content
):
  out, flags = stored
  wide = tmp_path / "eight"
  argv = "-m", "scm_jax", "prepare", f"--source={tree}", f"--out={wide}"
  python(*argv, "--workers=1", *flags, JAX_NUM_CPU_DEVICES="8")
  assert content(wide) == content(out)


def test_latents_that_edm2_stored(prepare, photographs, tmp_path, opened):
  rng = np.random.default_rng(0)
  files, arrays = {}, {}
  for i in range(6):
    array = np.abs(rng.normal(size=(8, 2, 2))).astype(np.float32)
    file = io.BytesIO()
    np.save(file, array)
    files[f"n{i % 2}/{i}.npy"] = file.getvalue()
    arrays[np.float16(array.transpose(1, 2, 0)).tobytes()] = i % 2
  files["n0/bad.npy"] = b"text"
  for name, wrong in (("nan", np.nan), ("huge", 1e6), ("negative", -1)):
    file = io.BytesIO()
    np.save(file, np.full((8, 2, 2), wrong, np.float32))
    files[f"n0/{name}.npy"] = file.getvalue()
  photographs.write_zip(tmp_path / "sd.zip", photographs.as_edm2(files))
  flags = (*FLAGS, "--latents", "--image-range=0,1")
  out, _ = prepare(tmp_path / "sd.zip", tmp_path / "out", *flags)
  assert "6 latents of 2 classes" in out and "4 unreadable" in out
  source = opened(
    tmp_path / "out", kind="latents", size=2, channels=4, image_range=(0.0, 1.0)
  )
  found = {source[i]["image"].tobytes(): source[i]["label"] for i in range(6)}
  assert found == arrays
  _, err = prepare(tmp_path / "sd.zip", tmp_path / "x", *FLAGS, code=2)
  assert "holds latents; give --latents" in err
