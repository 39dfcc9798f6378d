"""Labels, numbers and settings that samplers take, and those they refuse."""

import dataclasses
import re

import jax.numpy as jnp
import numpy as np
import pytest

from scm_jax import editing, networks
from scm_jax.errors import ConfigError, UserError


def test_labels(student):
  """Classes are repeated in turn, and None is every class in turn."""
  assert student.labels(None, 5).tolist() == [0, 1, 2, 0, 1]
  assert student.labels(2, 3).tolist() == [2, 2, 2]
  assert student.labels([3, 0]).tolist() == [3, 0]
  for labels, num in (([], None), (None, 0), ([0], -1)):
    with pytest.raises(ConfigError, match="nothing to draw"):
      student.labels(labels, num)
  for num in (2.5, "4"):
    with pytest.raises(ConfigError, match="num is .*; it must be a whole"):
      student.labels(None, num)


def test_which_labels_are_legal(student):
  """The number of classes is no label, which some networks never saw."""
  always_labelled = dataclasses.replace(student, unconditional=False)
  config = dataclasses.replace(student.network.config, num_classes=0)
  unlabelled = dataclasses.replace(student, network=networks.build(config))
  assert unlabelled.labels(num=2).tolist() == [0, 0]
  for sampler, label in (
    (student, 4),
    (student, -1),
    (always_labelled, 3),
    (unlabelled, 0),
  ):
    with pytest.raises(ConfigError, match="label"):
      sampler.sample([label])


@pytest.mark.parametrize(
  "labels", [np.eye(3)[[1, 2]], [[0, 1], [1, 2]], [1.7], ["cat"], [True]]
)
def test_labels_are_whole_numbers(student, labels):
  with pytest.raises(ConfigError, match="labels must be whole numbers"):
    student.sample(labels)


@pytest.mark.parametrize(
  "numbers",
  [{"steps": n} for n in (0, -1, 2.5)]
  + [{"seed": n} for n in (2**31, -(2**31) - 1, 0.5)]
  + [{"guidance": n} for n in (-1.0, np.nan, np.inf, (1.0, np.nan), "2")]
  + [{"guidance": np.ones((2, 2))}],
)
def test_numbers_that_cannot_be(student, teacher, numbers):
  images = np.zeros((1, 4, 4, 1), np.uint8)
  calls = [
    lambda: student.sample([0], **{"steps": 2} | numbers),
    lambda: student.from_noise(np.ones((2, 1, 4, 4, 1)), [0], **numbers),
    lambda: student.edit(images, [0], start=1.0, **numbers),
  ]
  if "seed" in numbers:
    calls[1] = lambda: student.noise(2, **numbers)
  elif isinstance(numbers.get("guidance"), float):
    calls.append(lambda: teacher.sample([0], **numbers))
  for call in calls:
    with pytest.raises(UserError, match="must be|one guidance scale"):
      call()


@pytest.mark.parametrize("num", [0, -1, 2.5])
def test_noise_of_a_number_of_images_that_cannot_be(student, num):
  with pytest.raises(ConfigError, match="num is"):
    student.noise(num)


def test_numbers_of_numpy_and_jax(student):
  expected = student.sample([1], steps=2, seed=3, guidance=1.5)
  for kind in (np.int64, jnp.int32):
    drawn = student.sample(
      kind(1), steps=kind(2), seed=kind(3), guidance=np.float32(1.5)
    )
    np.testing.assert_array_equal(drawn, expected)
  each = student.sample([1], steps=2, guidance=(1.5, 1.0))
  drawn = student.sample([1], steps=2, guidance=np.array([1.5, 1.0]))
  np.testing.assert_array_equal(drawn, each)
  listed = dataclasses.replace(student, times=np.array([1.2, 0.4]))
  expected = dataclasses.replace(student, times=(1.2, 0.4)).sample([1])
  np.testing.assert_array_equal(listed.sample([1]), expected)


@pytest.mark.parametrize(
  "field, value",
  [
    *(("sigma_max", np.nan), ("sigma_max", -1.0), ("gamma", 1.5)),
    *(("gamma", -1.0), ("t_mid", 1.6), ("guidance", -1.0), ("batch_size", 0)),
  ],
)
def test_settings_that_cannot_be(student, field, value):
  with pytest.raises(ConfigError, match=f"{field} is"):
    dataclasses.replace(student, **{field: value})


def test_what_is_known_must_fit(student):
  """Grey has three channels; these images have one."""
  images = np.zeros((2, 4, 4, 1), np.uint8)
  with pytest.raises(UserError, match=r"known does not fit .*\[2, 4, 4, 3\]"):
    student.edit(images, [0, 1], known=editing.grey())


def test_a_network_that_cannot_be_guided_is_not(student, teacher):
  """Its own scale is 1, whatever its config says; another is refused."""
  without = dataclasses.replace(student.network.config, guidance=False)
  unlabelled = dataclasses.replace(teacher.network.config, num_classes=0)
  always_labelled = dataclasses.replace(teacher, unconditional=False)
  for sampler in (
    dataclasses.replace(student, network=networks.build(without)),
    always_labelled,
    dataclasses.replace(teacher, network=networks.build(unlabelled)),
  ):
    sampler = dataclasses.replace(sampler, guidance=1.4)
    why = sampler.guidance_refusal()
    assert why and sampler.guidance_scale() == sampler.guidance_scale(1.0) == 1
    for refused in (
      lambda s=sampler: s.guidance_scale(1.7),
      lambda s=sampler: s.sample(num=1, guidance=1.7),
    ):
      with pytest.raises(ConfigError, match=re.escape(why)):
        refused()
  guided = dataclasses.replace(
    always_labelled,
    guidance_network=teacher.network,
    guidance_params=teacher.params,
  )
  assert guided.guidance_scale(1.7) == 1.7


def test_scales_of_steps_that_cannot_be(student, teacher):
  with pytest.raises(ConfigError, match="1.0:2.0, .* as the 3 steps"):
    student.sample(num=2, steps=3, guidance=(1.0, 2.0))
  with pytest.raises(ConfigError, match="diffusion model, whose guidance has"):
    teacher.sample(num=2, guidance=(1.0, 2.0))
  with pytest.raises(UserError, match="an edit has one guidance scale"):
    images = np.zeros((1, 4, 4, 1), np.uint8)
    student.edit(images, [0], start=1.0, guidance=(1.0, 2.0))


def test_a_kind_or_solver_that_is_none_is_refused(student):
  for fields in ({"kind": "diffusoin"}, {"solver": "huen"}):
    with pytest.raises(ValueError, match=next(iter(fields.values()))):
      dataclasses.replace(student, **fields)
