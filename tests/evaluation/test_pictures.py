"""Images from folders, zips and arrays: which, in which order, and errors."""

import shutil

import numpy as np
import pytest
from PIL import Image

from scm_jax.errors import UserError
from scm_jax.evaluation import pictures

COUNT = 7


@pytest.fixture(scope="module")
def images():
  rng = np.random.default_rng(0)
  return rng.integers(0, 256, (COUNT, 6, 5, 3), np.uint8)


@pytest.fixture
def folder(images, tmp_path):
  """A folder whose images lie in folders, and other files beside them."""
  root = tmp_path / "folder"
  for index, image in enumerate(images):
    file = root / f"{index // 3}" / f"{index}.png"
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(file)
  (root / "notes.txt").write_text("no image")
  (root / ".hidden.png").write_text("no image")
  return root


def _read(path, indices=range(COUNT), size=3):
  opened = pictures.open_pictures(str(path))
  batches = list(opened.batches(indices, size))
  assert all(len(batch) == size for batch in batches[:-1])
  return opened, np.concatenate(batches)


def _array(kind, images, folder):
  if kind == "folder":
    return folder
  if kind == "zip":
    return shutil.make_archive(str(folder), "zip", folder)
  file = folder.with_suffix(".npy" if kind == "npy" else ".npz")
  if kind == "npy":
    np.save(file, images)
  else:
    save = np.savez_compressed if kind == "samples" else np.savez
    save(file, labels=np.arange(COUNT), **{kind: images})
  return file


@pytest.mark.parametrize("kind", ["folder", "zip", "npy", "arr_0", "samples"])
def test_all_forms_hold_the_same_images(kind, images, folder):
  path = _array(kind, images, folder)
  opened, found = _read(path)
  assert (opened.count, opened.shape) == (COUNT, (6, 5, 3))
  np.testing.assert_array_equal(found, images)
  _, some = _read(path, [1, 4, 5], size=2)
  np.testing.assert_array_equal(some, images[[1, 4, 5]])
  assert opened.digest == pictures.open_pictures(str(path)).digest


def test_other_images_have_another_digest(images, folder):
  before = pictures.open_pictures(str(folder)).digest
  Image.fromarray(255 - images[0]).save(folder / "0" / "0.png")
  assert pictures.open_pictures(str(folder)).digest != before


def test_images_are_grey_if_all_files_are(images, tmp_path):
  for index, image in enumerate(images):
    Image.fromarray(image[..., 0]).save(tmp_path / f"{index}.png")
  opened, found = _read(tmp_path)
  assert opened.shape == (6, 5, 1)
  np.testing.assert_array_equal(found, images[..., :1])
  Image.fromarray(images[0]).save(tmp_path / "8.png")
  opened, found = _read(tmp_path, range(COUNT + 1))
  assert opened.shape == (6, 5, 3)
  np.testing.assert_array_equal(found[0], images[0][..., [0, 0, 0]])
  np.testing.assert_array_equal(found[-1], images[0])


def test_unequal_sizes_and_damaged_files_are_named(images, folder):
  file = folder / "1" / "4.png"
  whole = file.read_bytes()
  Image.fromarray(images[4][:5]).save(file)
  with pytest.raises(UserError, match=r"1/4.png has 5x5 pixels.*5x6"):
    pictures.open_pictures(str(folder))
  file.write_bytes(b"no image")
  with pytest.raises(UserError, match="1/4.png: not an image"):
    pictures.open_pictures(str(folder))
  file.write_bytes(whole[: len(whole) - 60])  # of which the header is whole
  with pytest.raises(UserError, match=r"1/4.png: "):
    _read(folder)


def test_files_without_images_are_refused(images, tmp_path):
  with pytest.raises(UserError, match="no images in"):
    pictures.open_pictures(str(tmp_path))
  with pytest.raises(UserError, match="is no folder"):
    pictures.open_pictures(str(tmp_path / "nowhere"))
  file = tmp_path / "images.npz"
  for content, said in (
    ({"x": images}, "neither arr_0 nor samples, but x"),
    ({"arr_0": images / 255}, r"float64 \[7, 6, 5, 3\], not uint8"),
    ({"arr_0": images[..., :2]}, r"\[N, H, W, 1\]"),
    ({"arr_0": images[:0]}, "not uint8"),
  ):
    np.savez(file, **content)
    with pytest.raises(UserError, match=f"images.npz.*{said}"):
      pictures.open_pictures(str(file))
  np.save(tmp_path / "cut.npy", images)
  data = (tmp_path / "cut.npy").read_bytes()
  (tmp_path / "cut.npy").write_bytes(data[:-10])
  with pytest.raises(UserError, match=r"cut.npy"):
    _read(tmp_path / "cut.npy")
