"""`scm_jax.load`: sampling from Python."""

import dataclasses
import os
import subprocess
import sys

import chex
import jax.numpy as jnp
import numpy as np
import pytest

import scm_jax
from scm_jax.errors import UserError


@pytest.fixture(scope="module")
def sampler(export_of):
  return scm_jax.load(export_of("student", formats=()))


@pytest.fixture(scope="module")
def images(sampler):
  return sampler.sample([0, 2, 1])


def test_images(sampler, images, model_of):
  assert images.shape == (3, 4, 4, 1) and images.dtype == np.uint8
  expected = model_of("student").sample(np.array([0, 2, 1]), steps=2)
  np.testing.assert_allclose(np.int32(images), np.int32(expected), atol=1)
  assert images.std() > 20


def test_labels_and_numbers(sampler, images):
  np.testing.assert_array_equal(sampler.sample((0, 2, 1), num=3), images)
  assert sampler.sample(1, num=3).shape == images.shape
  every = sampler.sample()  # 0, 1, 2
  np.testing.assert_array_equal(every[0], images[0])
  assert len(every) == 3 and not np.array_equal(every[1], images[1])


def test_options_act(sampler, images):
  for option in ({"seed": 1}, {"guidance": 1.7}):
    changed = sampler.sample([0, 2, 1], **option)
    assert changed.shape == images.shape
    assert not np.array_equal(changed, images)


def test_one_program_for_a_shape(sampler):
  """Whatever the labels, the seed and the scale."""
  network = sampler.model.network
  once = network._replace(F=chex.assert_max_traces(network.F, n=1))
  model = dataclasses.replace(sampler.model, network=once)
  counted = dataclasses.replace(sampler, model=model)
  for seed in range(2):
    counted.sample([seed] * 3, steps=1, seed=seed, guidance=1 + seed)
  chex.clear_trace_counter()


def test_defaults_of_a_teacher(export_of):
  teacher = scm_jax.load(export_of("teacher", formats=()))
  assert teacher.steps == 32  # of a run whose config does not say
  assert teacher.sample([0], steps=2).shape == (1, 4, 4, 1)


def test_weights_in_bfloat16(export_of, images):
  sampler = scm_jax.load(export_of("student", formats=()), dtype="bfloat16")
  weight = sampler.model.params["denoiser"]["conv_in"]["weight"]
  assert weight.dtype == jnp.bfloat16
  drawn = sampler.sample([0, 2, 1])
  error = np.abs(np.int32(drawn) - np.int32(images))
  assert 0 < error.max() and error.mean() < 3


@pytest.mark.parametrize(
  "name, arguments, said",
  [
    ("student", {"labels": [4]}, "labels are 0 to 2"),
    ("student", {"labels": []}, "nothing to draw"),
    ("student", {"num": -1}, "nothing to draw"),
    ("unlabelled", {"labels": [0]}, "takes no labels"),
    ("unlabelled", {"guidance": 2}, "trained without guidance"),
  ],
)
def test_mistakes(name, arguments, said, export_of):
  with pytest.raises(UserError, match=said):
    scm_jax.load(export_of(name, formats=())).sample(**arguments)


def test_what_is_no_model(tmp_path):
  with pytest.raises(UserError, match="not a workdir"):
    scm_jax.load(tmp_path)
  with pytest.raises(AttributeError, match="no attribute 'lod'"):
    scm_jax.lod  # noqa: B018


def test_two_devices_and_the_light_core(export_of, images, tmp_path):
  """The same images from a batch cut in two, without training's packages."""
  path = str(export_of("student", formats=()))
  code = f"""
import sys
heavy = "clu grain matplotlib ml_collections PIL sklearn tensorflow"
sys.modules.update(dict.fromkeys(heavy.split()))
import numpy as np, scm_jax
sampler = scm_jax.load({path!r})
assert sampler.devices == 2
np.save("images.npy", sampler.sample([0, 2, 1]))
try:
  scm_jax.load(".")
except Exception as error:
  print(error)
"""
  flags = "--xla_force_host_platform_device_count=2"
  done = subprocess.run(
    [sys.executable, "-c", code],
    cwd=tmp_path,
    env=os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stderr
  drawn = np.int32(np.load(tmp_path / "images.npy"))
  np.testing.assert_allclose(drawn, np.int32(images), atol=1)
  assert "pip install 'scm-jax[train]'" in done.stdout
