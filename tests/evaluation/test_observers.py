"""Observers of a pass: labels, pictures, files of samples."""

import errno

import numpy as np
import pytest

from scm_jax.errors import UserError
from scm_jax.evaluation import observers
from scm_jax.evaluation.observers import (
  ImagePicker,
  LabelCollector,
  SampleFile,
  SampleWriter,
)


def _images(count):
  """Image i is full of i."""
  return np.broadcast_to(
    np.arange(count, dtype=np.uint8)[:, None, None, None], (count, 2, 2, 1)
  )


def _show(collector, labels, starts, size=8):
  images = _images(len(labels))
  for start in starts:
    count = min(size, len(labels) - start)
    part = images[start : start + count]
    filled = np.concatenate([part, part[:1].repeat(size - count, axis=0)])
    collector.expect(start, list(labels[start : start + count]))
    collector.see(start, count, filled)


@pytest.mark.parametrize("cut", [0, 24])
def test_a_datasets_labels_and_first_images(cut):
  labels = np.random.default_rng(0).integers(0, 14, 60)
  labels[labels == 3] = 4  # a class without images
  collector, starts = LabelCollector(by_class=True), list(range(0, 60, 8))
  _show(collector, labels, [s for s in starts if s < cut])
  if cut:
    state = collector.state()
    collector = LabelCollector(by_class=True)
    collector.join([state])
  _show(collector, labels, [s for s in starts if s >= cut])
  found = collector.state()
  np.testing.assert_array_equal(found["labels"], labels)
  classes = [0, 1, 2, 4, 5, 6, 7, 8, 9, 10]
  assert found["keys"].tolist() == classes
  first = [int(np.argmax(labels == c)) for c in classes]
  assert found["images"][:, 0, 0, 0].tolist() == first


def test_a_dataset_without_classes_shows_its_first_images():
  collector = LabelCollector(by_class=False)
  _show(collector, np.zeros(30, int), range(0, 30, 8))
  assert collector.state()["images"][:, 0, 0, 0].tolist() == list(range(10))


@pytest.mark.parametrize("classes", [True, False])
def test_a_dataset_seen_in_parts(classes):
  """By three processes, one of which had nothing to do."""
  labels = np.random.default_rng(1).integers(0, 14, 48)
  whole = LabelCollector(classes)
  _show(whole, labels, range(0, 48, 8))
  parts = [LabelCollector(classes) for _ in range(3)]
  _show(parts[0], labels, range(0, 16, 8))
  _show(parts[2], labels, range(16, 48, 8))
  states = [part.state() for part in parts]
  for part in parts:
    part.join(iter(states))
    found, expected = part.state(), whole.state()
    for name in ("labels", "keys", "images"):
      np.testing.assert_array_equal(found[name], expected[name])


def test_images_picked_in_parts():
  parts = [ImagePicker([12, 3, -1]) for _ in range(2)]
  for start, part in zip((0, 8), parts, strict=True):
    part.see(start, 8, _images(16)[start : start + 8])
  states = [part.state() for part in parts]
  for part in parts:
    part.join(states)
    assert part.row()[:, 0, 0, 0].tolist() == [12, 3, 255]


def test_picked_images_and_white_places():
  picked = ImagePicker([5, -1, 12])
  for start in (0, 8):
    picked.see(start, 8, _images(16)[start : start + 8])
  assert picked.row()[:, 0, 0, 0].tolist() == [5, 255, 12]
  nobody = ImagePicker([-1, -1])
  nobody.see(0, 4, _images(4))
  assert (nobody.row() == 255).all()


def test_kept_samples_go_on_in_their_file(tmp_path):
  file, images = SampleFile(tmp_path / "samples" / "x.npy", "a"), _images(20)
  kept = SampleWriter([3], file, 20)
  kept.see(0, 8, images[:8])
  state = kept.state()
  kept.see(8, 8, images[8:16])  # not counted any more
  again = SampleWriter([3], file, 20)
  again.join([state])
  for start in (8, 16):
    again.see(start, min(8, 20 - start), images[start : start + 8])
  assert not file.path.exists() and not file.complete()
  again.finish()
  np.testing.assert_array_equal(np.load(file.path), images)
  assert again.row()[0, 0, 0, 0] == 3
  assert file.complete() and not file._replace(asked="b").complete()
  with pytest.raises(ValueError, match="is missing"):
    SampleWriter([3], file, 20).join([state])


def test_a_full_disk_is_found_before_samples_are_written(tmp_path, monkeypatch):
  def full(*_):
    raise OSError(errno.ENOSPC, "No space left on device")

  monkeypatch.setattr(observers.os, "posix_fallocate", full)
  file = SampleFile(tmp_path / "x.npy", "a")
  with pytest.raises(UserError, match=r"x\.npy: No space left on device"):
    SampleWriter([0], file, 20).see(0, 8, _images(8))
  assert not list(tmp_path.iterdir())
