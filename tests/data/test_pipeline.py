"""Batches by step: the same for any number of processes, epoch after epoch."""

import itertools

import numpy as np
import pytest

from scm_jax.data import pipeline, sources
from scm_jax.defaults import get_defaults
from scm_jax.errors import ConfigError, UserError


class Toy:
  """`size` images [2, 3, 1] whose label is their index."""

  def __init__(self, size: int):
    self.size = size

  def __len__(self):
    return self.size

  def __getitem__(self, index):
    image = np.arange(6, dtype=np.uint8).reshape(2, 3, 1) + 6 * (index % 40)
    return {"image": image, "label": index}


def batches(size=10, batch_size=4, seed=0, **kwargs) -> pipeline.Batches:
  return pipeline.Batches(Toy(size), batch_size=batch_size, seed=seed, **kwargs)


def labels(some: pipeline.Batches, steps: int) -> np.ndarray:
  return np.concatenate([some[k]["label"] for k in range(steps)])


def flipped(batch: pipeline.Batch) -> np.ndarray:
  """Whether each image is mirrored; fails if one is neither."""
  image = Toy(1)[0]["image"] + 6 * (batch["label"] % 40)[:, None, None, None]
  is_flipped = (batch["image"] == image[:, :, ::-1]).all((1, 2, 3))
  is_plain = (batch["image"] == image).all((1, 2, 3))
  assert (is_flipped ^ is_plain).all()
  return is_flipped


def assert_equal(left: pipeline.Batch, right: pipeline.Batch) -> None:
  assert left.keys() == right.keys()
  for key in left:
    assert left[key].dtype == right[key].dtype
    np.testing.assert_array_equal(left[key], right[key])


def test_digits_batches_are_uint8_images_and_int32_labels(data_dir):
  config = get_defaults().data
  config.update(name="scm_digits", size=12, channels=1, num_classes=10)
  config.data_dir = data_dir
  source = sources.open_source(config)
  some = pipeline.Batches(
    source, batch_size=128, seed=3, process_index=1, process_count=2, flip=True
  )
  batch = some[20]  # crosses into the second epoch
  assert batch["image"].shape == (64, 12, 12, 1)
  assert batch["image"].dtype == np.uint8
  assert batch["label"].shape == (64,)
  assert batch["label"].dtype == np.int32
  known = {
    (source[i]["image"].tobytes(), source[i]["label"])
    for i in range(len(source))
  }
  for image, label in zip(batch["image"], batch["label"], strict=True):
    mirrored = image[:, ::-1]
    assert {(image.tobytes(), label), (mirrored.tobytes(), label)} & known


@pytest.mark.parametrize("count", [1, 2, 4])
@pytest.mark.parametrize("flip", [False, True])
def test_parts_of_processes_are_the_global_batch(count, flip):
  stream = batches(batch_size=1, flip=flip)
  parts = [
    batches(batch_size=8, process_index=p, process_count=count, flip=flip)
    for p in range(count)
  ]
  for step in (0, 1, 2, 7, 1000):
    local = [part[step] for part in parts]
    assert all(len(part["label"]) == 8 // count for part in local)
    joined = {
      key: np.concatenate([part[key] for part in local])
      for key in ("image", "label")
    }
    elements = [stream[j] for j in range(8 * step, 8 * step + 8)]
    expected = {
      key: np.concatenate([element[key] for element in elements])
      for key in ("image", "label")
    }
    assert_equal(joined, expected)


@pytest.mark.parametrize("start", [0, 1, 13])
def test_iterating_is_indexing(start):
  some = batches(process_index=1, process_count=2, flip=True)
  iterator = some.iterate(start)
  for step, batch in enumerate(itertools.islice(iterator, 20), start):
    assert_equal(batch, some[step])


def test_each_epoch_is_all_elements_in_a_new_order():
  # 15 batches of 4 are 6 epochs of 10: batches cross epochs, none is cut.
  epochs = labels(batches(), 15).reshape(6, 10)
  for epoch in epochs:
    assert sorted(epoch) == list(range(10))
    assert list(epoch) != list(range(10))
  assert len({tuple(epoch) for epoch in epochs}) == 6


def test_batch_may_exceed_the_source():
  drawn = batches(size=3, batch_size=12)[5]["label"]
  assert np.bincount(drawn).tolist() == [4, 4, 4]


def test_order_is_fixed_by_the_seed():
  same = labels(batches(size=100, seed=5), 25)
  np.testing.assert_array_equal(same, labels(batches(size=100, seed=5), 25))
  # Seed s + 1 is not seed s one epoch later either.
  runs = [labels(batches(size=100, seed=seed), 75) for seed in (5, 6, 7)]
  epochs = np.stack(runs).reshape(9, 100)
  assert len({tuple(epoch) for epoch in epochs}) == 9


def test_flips_are_fixed_by_the_seed_and_drawn_for_each_element():
  some = batches(size=160, batch_size=160, flip=True)
  again = batches(size=160, batch_size=160, flip=True)
  by_label = []
  for step in range(30):
    if step < 3:
      assert_equal(some[step], again[step])
    mirrored = flipped(some[step])
    by_label.append(mirrored[np.argsort(some[step]["label"])])
  rates = np.mean(by_label, axis=0)  # 30 draws for each of the 160 images
  assert abs(rates.mean() - 0.5) < 0.05  # 6.9 standard deviations of the mean
  assert rates.min() > 0 and rates.max() < 1  # each image comes both ways
  other = batches(size=160, batch_size=160, seed=1, flip=True)
  assert any((flipped(other[k]) != flipped(some[k])).any() for k in range(3))


def test_flipping_changes_neither_order_nor_unflipped_images():
  plain, flips = batches(), batches(flip=True)
  for step in range(10):
    np.testing.assert_array_equal(plain[step]["label"], flips[step]["label"])
    assert not flipped(plain[step]).any()


def test_source_may_hold_something_else():
  class Latents(Toy):
    def __getitem__(self, index):
      return {"image": np.full((4, 4, 8), index, np.float32), "label": 1}

  some = pipeline.Batches(Latents(6), batch_size=6, seed=0)
  assert some[0]["image"].dtype == np.float32
  assert sorted(some[0]["image"][:, 0, 0, 0]) == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("label", [None, 0.5, [1]])
def test_labels_are_whole_numbers(label):
  """A float would lose its fraction in silence."""
  element = {"image": np.zeros((2, 2, 1), np.uint8)}
  element |= {} if label is None else {"label": label}
  some = pipeline.Batches([element] * 4, batch_size=2, seed=0)
  with pytest.raises(UserError, match="every element needs a label"):
    some[0]


@pytest.mark.parametrize(
  ("elements", "said"),
  [
    ([], "no elements"),
    ([np.zeros((2, 2, 1), np.uint8)] * 4, "a ndarray"),
    ([(np.zeros((2, 2, 1), np.uint8), 1)] * 4, "a tuple"),
    ([{"images": 0, "label": 1}] * 4, "must be a dict that has `image`"),
    (
      [{"image": np.zeros((2, 2, c), np.uint8), "label": 0} for c in (1, 3)],
      r"uint8 \[2, 2, 1\] and of uint8 \[2, 2, 3\]",
    ),
  ],
)
@pytest.mark.parametrize("flip", [False, True])
def test_elements_that_make_no_batch(elements, said, flip):
  with pytest.raises(UserError, match=said):
    pipeline.Batches(elements, batch_size=2, seed=0, flip=flip)[0]


def test_error_of_the_source_reaches_the_reader():
  class Broken(Toy):
    def __getitem__(self, index):
      raise RuntimeError("disk on fire")

  some = pipeline.Batches(Broken(6), batch_size=2, seed=0)
  with pytest.raises(RuntimeError, match="disk on fire"):
    next(some.iterate())


@pytest.mark.parametrize(
  ("kwargs", "message"),
  [
    ({"batch_size": 6, "process_count": 4}, r"batch_size=6 .* 4 process"),
    ({"batch_size": 0}, "batch_size=0"),
    ({"batch_size": -4}, "batch_size=-4"),
    ({"seed": -1}, "seed=-1 is negative"),
  ],
)
def test_bad_config_is_one_line(kwargs, message):
  with pytest.raises(ConfigError, match=message) as error:
    batches(**kwargs)
  assert error.value.exit_code == 2
  assert "\n" not in str(error.value)


def test_bad_arguments():
  with pytest.raises(ValueError, match="process_index=2"):
    batches(process_index=2, process_count=2)
  with pytest.raises(IndexError, match="step -1"):
    batches()[-1]
