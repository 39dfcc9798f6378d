"""Listing folders and zips: classes, what is ignored, what cannot be."""

import json

import pytest

from scm_jax.errors import ConfigError, UserError
from scm_jax.preparing import index, options


def listed(path):
  return options.open_source(str(path)).index()


def test_folder(tree, photographs):
  found = listed(tree)
  assert found.classes == ("n00", "n01", "n02")
  assert len(found.items) == 32 and found.ignored == 1
  assert [item.key for item in found.items] == sorted(
    name for name in photographs.make() if not name.endswith(".txt")
  )
  assert all(int(item.key[2]) == item.label for item in found.items)


def test_zip_is_the_same(tree, photographs, tmp_path):
  photographs.write_zip(tmp_path / "train.zip", photographs.make())
  wanted, found = listed(tree), listed(tmp_path / "train.zip")
  assert found.items == wanted.items and found.name == "train.zip"
  assert found.fingerprint() == wanted.fingerprint()
  # In a folder that all share, and named as a folder of the archive.
  files = {f"a/b/{name}": data for name, data in photographs.make().items()}
  files["__MACOSX/n00/._000.JPEG"] = b""
  photographs.write_zip(tmp_path / "deep.zip", files)
  deep = listed(tmp_path / "deep.zip")
  assert deep.classes == wanted.classes and deep.ignored == 2
  inside = listed(tmp_path / "deep.zip/a/b")
  assert inside.items == wanted.items
  source = options.open_source(str(tmp_path / "deep.zip/a/b"))
  assert source.read("n00/000.JPEG") == (files["a/b/n00/000.JPEG"], None)


def test_a_zip_with_backslashes_has_classes(photographs, tmp_path):
  files = {f"{c}\\{i}.png": b"" for c in "ab" for i in range(2)}
  photographs.write_zip(tmp_path / "windows.zip", files)
  found = listed(tmp_path / "windows.zip")
  assert found.classes == ("a", "b")
  source = options.open_source(str(tmp_path / "windows.zip"))
  assert source.read(found.items[0].key) == (b"", None)


def test_a_link_to_a_folder_above_is_not_followed_again(tmp_path):
  (tmp_path / "train/a").mkdir(parents=True)
  (tmp_path / "train/a/1.png").touch()
  (tmp_path / "train/a/self").symlink_to(tmp_path / "train")
  assert [item.key for item in listed(tmp_path / "train").items] == ["a/1.png"]
  # Any other link is: a class may be another one's.
  (tmp_path / "train/a/self").unlink()
  (tmp_path / "train/b").symlink_to(tmp_path / "train/a")
  assert listed(tmp_path / "train").classes == ("a", "b")


def test_edm2(photographs, tmp_path):
  files = photographs.as_edm2(photographs.make(bad=False))
  photographs.write_zip(tmp_path / "edm2.zip", files)
  found = listed(tmp_path / "edm2.zip")
  assert found.classes == ("0", "1", "2")
  assert [item.label for item in found.items] == [0] * 10 + [1] * 10 + [2] * 10
  files["dataset.json"] = json.dumps({"labels": None}).encode()
  photographs.write_zip(tmp_path / "none.zip", files)
  assert listed(tmp_path / "none.zip").classes == ()


@pytest.mark.parametrize(
  "labels, message",
  [
    ({"labels": [["a.png", 0]]}, "gives b.png the label None"),
    ({"labels": [["a.png", 0], ["b.png", [0, 1]]]}, "b.png the label"),
    ({"label": []}, "holds no 'labels'"),
  ],
)
def test_edm2_labels_that_do_not_fit(photographs, tmp_path, labels, message):
  files = {"a.png": b"", "b.png": b""}
  files["dataset.json"] = json.dumps(labels).encode()
  photographs.write_zip(tmp_path / "x.zip", files)
  with pytest.raises(UserError, match=message):
    listed(tmp_path / "x.zip")


def test_folder_without_classes(photographs, tmp_path):
  for name, data in photographs.make(1, 2, bad=False).items():
    (tmp_path / name.rpartition("/")[2]).write_bytes(data)
  found = listed(tmp_path)
  assert found.classes == () and {i.label for i in found.items} == {None}
  photographs.write(tmp_path, classes=1, each=2, bad=False)
  with pytest.raises(UserError, match="2 images beside its class folders"):
    listed(tmp_path)


def test_sources_that_are_not_there(tmp_path):
  with pytest.raises(UserError, match="no such folder or zip"):
    listed(tmp_path / "photos")
  with pytest.raises(UserError, match="by hand.*ILSVRC2012_img_train.tar") as e:
    listed(tmp_path / "imagenet")
  assert f"{tmp_path}/imagenet/n01440764/" in str(e.value)
  (tmp_path / "empty").mkdir()
  with pytest.raises(UserError, match="no images in empty"):
    listed(tmp_path / "empty")
  (tmp_path / "x.zip").write_bytes(b"no zip")
  with pytest.raises(UserError, match="x.zip"):
    listed(tmp_path / "x.zip")
  (tmp_path / "x.tar").write_bytes(b"")
  with pytest.raises(ConfigError, match="is a tar file; unpack it"):
    listed(tmp_path / "x.tar")


def test_order_is_a_shuffle_that_depends_on_names_alone():
  items = tuple(index.Item(f"{i:03}") for i in range(200))
  order = index.shuffled(items, mirror=False)
  assert sorted(order) == list(items) and order != list(items)
  some = index.shuffled(items[::2], mirror=False)
  assert some == [item for item in order if item in some]
  both = index.shuffled(items, mirror=True)
  assert [item for item in both if not item.mirrored] == order
  assert len({(item.key, item.mirrored) for item in both}) == 400
