"""Files and folders appear whole or not at all, whatever interrupts a write."""

import os
import pathlib
import subprocess
import sys
import threading

import pytest

from scm_jax import errors, files


def test_write_bytes_makes_the_directory_and_replaces(tmp_path):
  path = tmp_path / "a" / "b.bin"
  assert files.write_bytes(path, b"old") == path
  files.write_bytes(path, b"new")
  assert path.read_bytes() == b"new"
  assert os.listdir(path.parent) == ["b.bin"]


def test_files_are_readable_by_others_as_the_umask_allows(tmp_path):
  previous = os.umask(0o022)
  try:
    path = files.write_bytes(tmp_path / "a", b"x")
  finally:
    os.umask(previous)
  assert path.stat().st_mode & 0o777 == 0o644


def full(*_):
  raise OSError(28, "No space left on device")


def test_failure_keeps_the_old_file_and_leaves_nothing(tmp_path, monkeypatch):
  path = files.write_bytes(tmp_path / "report.json", b"old")
  monkeypatch.setattr(os, "fsync", full)
  with pytest.raises(errors.UserError, match=r"report\.json: No space left"):
    files.write_bytes(path, b"new")
  assert path.read_bytes() == b"old"
  assert os.listdir(tmp_path) == ["report.json"]


def test_impossible_place_is_a_user_error(tmp_path):
  (tmp_path / "file").write_bytes(b"")
  for write in (files.write_text, lambda path, _: replace(path, "new")):
    with pytest.raises(errors.UserError, match="cannot write"):
      write(tmp_path / "file" / "x", "")


def test_a_bucket_is_no_local_folder(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  assert files.absolute("gs://bucket/run") == "gs://bucket/run"
  assert files.absolute("run") == os.path.realpath(tmp_path / "run")


def test_a_folder_is_replaced_by_one_process_alone(tmp_path):
  """The other one says so, and harms neither the old folder nor the new one."""
  code = (
    f"from scm_jax import files; files.replaced_folder({str(tmp_path / 'x')!r})"
  )
  other = [sys.executable, "-c", f"{code}.__enter__()"]
  run = lambda: subprocess.run(other, capture_output=True, text=True)
  replace(tmp_path / "x", "old")
  with files.replaced_folder(tmp_path / "x") as folder:
    (folder / "b").mkdir()
    (folder / "a").write_text("new")
    assert "another command writes" in run().stderr
    assert (tmp_path / "x" / "a").read_text() == "old"
    (folder / "b" / "c").write_text("new")
  assert content(tmp_path / "x") == "new"


@pytest.fixture(params=["disk", "bucket"])
def root(request, bucket, tmp_path):
  """A folder for folders."""
  return tmp_path if request.param == "disk" else bucket


def replace(path, text):
  """Replaces a folder by one whose two files hold `text`."""
  with files.replaced_folder(path) as folder:
    (folder / "b").mkdir()
    (folder / "a").write_text(text)
    (folder / "b" / "c").write_text(text)


def content(path):
  """The text in both files of a whole folder, or None if there is none."""
  names = [p.name for p in path.parent.iterdir()] if exists(path.parent) else []
  assert names in ([], [path.name])  # nothing is left beside it
  if not names:
    return None
  text = (path / "a").read_text()
  assert (path / "b" / "c").read_text() == text
  return text


def exists(path):
  return path.exists() and path.is_dir()


@pytest.mark.usefixtures("exchange")
@pytest.mark.parametrize("done", [False, True], ids=["before", "after"])
def test_a_folder_killed_at_each_operation(root, killed_at, done):
  """The old or the new one is there, and the next write goes through."""
  number, found, begun = 0, [], [""]
  while len(begun) >= number:
    number += 1
    path = root / str(number) / "folder"
    replace(path, "old")
    with killed_at(number, done) as begun:
      replace(path, "new")
    files.recover_folder(path)
    found.append(content(path))
    replace(path, "newer")
    assert content(path) == "newer"
  assert set(found) == {"old", "new"} and found == sorted(found, reverse=True)


@pytest.mark.parametrize("number", range(1, 6))
def test_the_first_folder_is_whole_or_not_there(root, killed_at, number):
  path = root / "folder"
  with killed_at(number):
    replace(path, "first")
  files.recover_folder(path)
  assert content(path) in (None, "first")
  replace(path, "second")
  assert content(path) == "second"


@pytest.mark.usefixtures("exchange")
def test_a_recovery_that_is_killed(root, killed_at):
  """A kill at any operation of what follows a kill at any operation."""
  for first in range(1, 16):
    for second in range(1, 9):
      path = root / f"{first}-{second}" / "folder"
      replace(path, "old")
      with killed_at(first, done=True):
        replace(path, "new")
      with killed_at(second, done=True):
        files.recover_folder(path)
      files.recover_folder(path)
      assert content(path) in ("old", "new")


def test_there_is_a_folder_at_all_times(tmp_path):
  path, there = tmp_path / "folder", []
  replace(path, "0")
  ended = threading.Event()

  def look():
    while not ended.is_set():
      there.append(path.exists())

  reader = threading.Thread(target=look)
  reader.start()
  for number in range(100):
    replace(path, str(number))
  ended.set()
  reader.join()
  assert len(there) > 100 and all(there)


def test_a_disk_that_fails_keeps_the_folder(tmp_path, monkeypatch):
  path = tmp_path / "folder"
  replace(path, "old")
  monkeypatch.setattr(files, "_exchanged", lambda a, b: False)
  real = pathlib.Path.rename

  def rename(self, target):
    return full() if "partial" in self.name else real(self, target)

  monkeypatch.setattr(pathlib.Path, "rename", rename)
  with pytest.raises(errors.UserError, match="folder: No space left"):
    replace(path, "new")
  assert content(path) == "old"


def test_a_file_is_not_replaced_by_a_folder(tmp_path):
  (tmp_path / "x").write_text("mine")
  with pytest.raises(errors.UserError, match="x: it is a file"):
    replace(tmp_path / "x", "new")
  assert (tmp_path / "x").read_text() == "mine"
  assert os.listdir(tmp_path) == ["x"]


def test_an_error_of_the_writer_keeps_the_folder(root):
  replace(root / "folder", "old")
  with pytest.raises(ZeroDivisionError):
    with files.replaced_folder(root / "folder") as folder:
      (folder / "a").write_text("new")
      raise ZeroDivisionError
  assert content(root / "folder") == "old"
