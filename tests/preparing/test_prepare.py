"""`scm-jax prepare`: the dataset, resumption, sharing, and what goes wrong."""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys

import pytest

from scm_jax.preparing import transform

SMALL = ("--size=16", "--name=photos", "--shards=4", "--on-error=skip")


def manifest(folder: pathlib.Path) -> dict:
  return json.loads((folder / "manifest.json").read_text())


def test_dataset_is_what_the_files_show(photos, opened, photographs):
  source = opened(photos.parents[1])
  assert len(source) == 30
  wanted = {}
  for name, data in photographs.make(bad=False).items():
    image, _ = transform.decode(data, 3)
    array = transform.to_array(transform.centre_crop(image, 16))
    wanted[array.tobytes()] = int(name[2])
  found = [source[i] for i in range(30)]
  assert {e["image"].tobytes(): e["label"] for e in found} == wanted
  assert [e["label"] for e in found] != sorted(e["label"] for e in found)


def test_manifest(photos, photographs):
  made = manifest(photos)
  assert made["counts"]["records"] == 30
  assert [c["name"] for c in made["classes"]] == ["n00", "n01", "n02"]
  assert [c["records"] for c in made["classes"]] == [10, 10, 10]
  bad = {entry["file"]: entry["reason"] for entry in made["unreadable"]}
  assert bad.keys() == {photographs.TRUNCATED, photographs.NOT_AN_IMAGE}
  assert "truncated" in bad[photographs.TRUNCATED]
  assert bad[photographs.NOT_AN_IMAGE] == "not an image"
  special = made["counts"]["special"]
  assert special["CMYK"] == 4 and special["rotated"] == 3
  assert sum(shard["records"] for shard in made["shards"]) == 30
  assert made["source"]["other_files"] == 1
  assert str(photos) not in (photos / "manifest.json").read_text()


def test_second_run_verifies(prepare, photos, tree, content, caplog):
  before = content(photos)
  out, _ = prepare(tree, photos.parents[1], *SMALL)
  assert "is complete and verified: 30 images of 3 classes" in out
  # Even where the images are gone, which is said.
  assert "only the dataset itself" not in caplog.text
  out, _ = prepare(tree / "nowhere", photos.parents[1], *SMALL)
  assert "is complete and verified" in out
  assert "only the dataset itself is verified" in caplog.text
  assert content(photos) == before


def test_other_images_are_no_second_run(
  prepare, photos, tree, tmp_path, content
):
  before = content(photos)
  other = tmp_path / tree.name
  shutil.copytree(tree, other)
  (other / "notes.txt").write_text("these are no images")
  out, _ = prepare(other, photos.parents[1], *SMALL)
  assert "is complete and verified" in out
  image = next(other.rglob("*.png"))
  shutil.copy(image, image.with_stem("another"))
  _, err = prepare(other, photos.parents[1], *SMALL, code=1)
  assert "made with other options or images" in err
  assert content(photos) == before


@pytest.mark.parametrize("damage", ["changed", "missing"])
def test_damage_is_mended(prepare, photos, tree, content, damage, caplog):
  before = content(photos)
  shard = sorted(photos.glob("*.array_record-00002-of-*"))[0]
  if damage == "missing":
    shard.unlink()
  else:
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
  out, _ = prepare(tree, photos.parents[1], *SMALL)
  assert "complete and verified" not in out
  assert f"{shard.name} is missing or damaged" in caplog.text
  assert content(photos) == before


KILL = """
import os, signal, sys
from scm_jax.cli import main
from scm_jax.preparing import manifest, shards
def die(*args):
  os.kill(os.getpid(), signal.SIGKILL)
count = 0
def record(*args, record=shards.record):
  global count
  count += 1
  return die() if count == 13 else record(*args)
if sys.argv[1] == "within a shard":
  shards.record = record
elif sys.argv[1] == "after a shard":
  manifest.save_shard = die
else:
  manifest.write_metadata = die
main.main(sys.argv[2:])
"""


@pytest.mark.parametrize(
  "where", ["within a shard", "after a shard", "after the manifest"]
)
def test_killed_and_restarted(
  prepare, photos, tree, content, tmp_path, opened, caplog, where
):
  out = tmp_path / "killed"
  argv = ["prepare", f"--source={tree}", f"--out={out}", "--workers=1", *SMALL]
  done = subprocess.run(
    [sys.executable, "-c", KILL, where, *argv], capture_output=True, text=True
  )
  assert done.returncode == -signal.SIGKILL, done.stderr
  with pytest.raises(Exception, match="prepare"):  # nobody takes it for whole
    opened(out)
  caplog.set_level("INFO")
  prepare(tree, out, *SMALL)
  if where == "within a shard":
    assert "1 of 4 shards are there" in caplog.text
  assert content(out / "photos/1.0.0") == content(photos)


@pytest.mark.slow
def test_two_processes_share_the_work(
  prepare, photos, tree, content, tmp_path, command
):
  out = tmp_path / "shared"
  argv = [f"--source={tree}", f"--out={out}", "--workers=2", *SMALL]
  others = [
    subprocess.Popen(
      [sys.executable, "-m", "scm_jax", "prepare", *argv, f"--shard={i}/2"],
      stdout=subprocess.PIPE,
      text=True,
    )
    for i in range(2)
  ]
  outputs = [other.communicate()[0] for other in others]
  assert [other.returncode for other in others] == [0, 0]
  assert any("is made: 30 images" in output for output in outputs)
  assert content(out / "photos/1.0.0") == content(photos)


def test_a_part_waits_for_the_others(prepare, photos, tree, content, tmp_path):
  out = tmp_path / "parts"
  stdout, _ = prepare(tree, out, *SMALL, "--shard=1/2")
  assert stdout.startswith("part 1/2 of ") and "others are missing" in stdout
  assert not (out / "photos/1.0.0/manifest.json").exists()
  stdout, _ = prepare(tree, out, *SMALL, "--shard=0/2")
  assert "is made: 30 images" in stdout
  assert content(out / "photos/1.0.0") == content(photos)


def test_zips_give_the_same_shards(
  prepare, photos, photographs, tmp_path, content
):
  photographs.write_zip(tmp_path / "train.zip", photographs.make())
  prepare(tmp_path / "train.zip", tmp_path / "zip", *SMALL)
  found = content(tmp_path / "zip/photos/1.0.0")
  assert (
    manifest(tmp_path / "zip/photos/1.0.0")["source"]["name"] == "train.zip"
  )
  for name, data in content(photos).items():
    assert name in ("manifest.json", "dataset_info.json") or found[name] == data
  files = photographs.as_edm2(photographs.make(bad=False))
  photographs.write_zip(tmp_path / "edm2.zip", files)
  out, _ = prepare(tmp_path / "edm2.zip", tmp_path / "edm2", *SMALL)
  assert "30 images of 3 classes" in out and " 0 unreadable" in out


def test_unreadable_images_stop_the_run(prepare, tree, tmp_path, photographs):
  flags = (*SMALL[:-1], "--on-error=stop")
  _, err = prepare(tree, tmp_path / "out", *flags, code=1)
  line = err.splitlines()[-1]
  assert line.startswith("scm-jax prepare: n0")
  assert "--on-error=skip" in line
  # What was done by then stays, and going on with `skip` ends well.
  out, _ = prepare(tree, tmp_path / "out", *SMALL)
  assert "is made: 30 images" in out


def test_a_failing_disk_ends_the_run(prepare, photographs, tmp_path):
  photographs.write(tmp_path / "train", classes=2, each=3, bad=False)
  (tmp_path / "train/n01/x.png").symlink_to(tmp_path / "gone.png")
  _, err = prepare(tmp_path / "train", tmp_path / "out", *SMALL, code=1)
  assert "n01/x.png cannot be read: No such file" in err


def test_shards_without_readable_images(prepare, tree, tmp_path, opened):
  flags = (*SMALL[:2], "--shards=32", "--on-error=skip")
  prepare(tree, tmp_path, *flags)
  records = [
    s["records"] for s in manifest(tmp_path / "photos/1.0.0")["shards"]
  ]
  assert sorted(records) == [0, 0] + [1] * 30
  source = opened(tmp_path)
  assert len({source[i]["image"].tobytes() for i in range(len(source))}) == 30
  assert len(opened(tmp_path, split="train[50%:]")) == 15


def test_mirror_images_and_grey(
  prepare, photographs, tmp_path, opened, command
):
  photographs.write(tmp_path / "train", classes=2, each=3, bad=False)
  prepare(tmp_path / "train", tmp_path / "out", *SMALL, "--mirror")
  source = opened(tmp_path / "out")
  images = [source[i]["image"] for i in range(len(source))]
  known = {image.tobytes() for image in images}
  assert len(images) == len(known) == 12
  assert all(image[:, ::-1].tobytes() in known for image in images)


def test_other_settings_are_refused(prepare, photos, tree, tmp_path):
  flags = ("--name=photos", "--shards=4", "--on-error=skip")
  out = photos.parents[1]
  _, err = prepare(tree, out, "--size=8", *flags, code=1)
  assert "preprocessing.size: 16 -> 8" in err
  part = (*flags, "--shard=0/2")
  prepare(tree, tmp_path / "begun", "--size=16", *part)
  _, err = prepare(tree, tmp_path / "begun", "--size=8", *part, code=1)
  assert "preprocessing.size: 16 -> 8" in err


@pytest.mark.parametrize(
  "flags, message",
  [
    (["--size=0"], "--size is 0; it must be positive"),
    ([], "give --size=64, or a --config"),
    (["--size=8", "--shard=2/2"], "--shard=2/2: give I/N"),
    (["--size=8", "--workers=0"], "--workers is 0"),
    (["--size=8", "--name=A b"], "cannot name a dataset"),
    (["--size=9", "--latents"], "make --size a multiple of 8"),
    (["--size=8", "--autoencoder=x"], "--autoencoder is for --latents"),
    (["--size=8", "--latents"], "need --autoencoder=FILE; fetch https://"),
    (["--size=8", "--latents", "--image-range=1"], "give -1,1 or 0,1"),
    (["--size=8", "--out=gs://x/y"], "--out=gs://x/y: a dataset is made on a"),
    # Training would put such images into black frames.
    (
      ["--config=images:size=32,classes=3", "--size=16"],
      "set --config.data.size=16",
    ),
  ],
)
def test_mistakes(prepare, tree, tmp_path, flags, message):
  _, err = prepare(tree, tmp_path, *flags, code=2)
  assert message in err.splitlines()[-1]


def test_numbers_of_folders_that_are_not_their_labels_are_said(
  prepare, photographs, tmp_path, caplog
):
  photographs.write(tmp_path / "train", classes=3, each=2, bad=False)
  numbers = {"n00": "0", "n01": "2", "n02": "10"}
  for old, new in numbers.items():
    (tmp_path / "train" / old).rename(tmp_path / "train" / new)
  prepare(tmp_path / "train", tmp_path / "out", *SMALL)
  assert "the label of the folder 10 is 1" in caplog.text
  caplog.clear()
  for old, new in (("10", "01"), ("2", "02"), ("0", "00")):
    (tmp_path / "train" / old).rename(tmp_path / "train" / new)
  prepare(tmp_path / "train", tmp_path / "other", *SMALL)
  assert "the label of the folder" not in caplog.text


def test_a_class_with_a_line_break_in_its_name(prepare, photographs, tmp_path):
  photographs.write(tmp_path / "train", classes=2, each=3, bad=False)
  (tmp_path / "train/n01").rename(tmp_path / "train/n\n01")
  _, err = prepare(tmp_path / "train", tmp_path / "out", *SMALL, code=2)
  assert r"a line break in the class 'n\n01'" in err.splitlines()[-1]


def test_a_name_that_is_no_text(prepare, photographs, tmp_path):
  """As old archives have them, in Latin-1."""
  photographs.write(tmp_path / "train", classes=2, each=3, bad=False)
  image = next(path for path in (tmp_path / "train").rglob("*.*"))
  image.rename(image.with_name(os.fsdecode(b"\xdcbung.png")))
  _, err = prepare(tmp_path / "train", tmp_path / "out", *SMALL, code=1)
  assert "bung.png' is not in UTF-8; rename it" in err.splitlines()[-1]


def test_nothing_readable(prepare, tmp_path):
  (tmp_path / "a").mkdir()
  (tmp_path / "a/x.png").write_bytes(b"text")
  _, err = prepare(tmp_path, tmp_path / "out", "--size=8", *SMALL[2:], code=1)
  assert "none of 1 images can be read; the first: a/x.png: not an" in err


TRAINING = """
import sys
import ml_collections
from scm_jax.data import pipeline, sources
config = dict(kind="images", name="photos", split="train", size=16, channels=3,
  num_classes=3, data_dir=sys.argv[1], image_range=(-1.0, 1.0))
source = sources.open_source(ml_collections.ConfigDict(config))
batches = pipeline.Batches(source, batch_size=8, seed=0)
assert next(batches.iterate())["image"].shape == (8, 16, 16, 3)
unwanted = "tensorflow", "scm_jax.preparing"
assert not set(unwanted) & set(sys.modules), set(unwanted) & set(sys.modules)
"""


def test_reading_imports_no_tensorflow(photos, python):
  python("-c", TRAINING, photos.parents[1])
