"""Files appear whole, and failures end in one line."""

import os

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


def test_failure_keeps_the_old_file_and_leaves_nothing(tmp_path, monkeypatch):
  path = files.write_bytes(tmp_path / "report.json", b"old")

  def full(_):
    raise OSError(28, "No space left on device")

  monkeypatch.setattr(os, "fsync", full)
  with pytest.raises(errors.UserError, match=r"report\.json: No space left"):
    files.write_bytes(path, b"new")
  assert path.read_bytes() == b"old"
  assert os.listdir(tmp_path) == ["report.json"]


def test_impossible_place_is_a_user_error(tmp_path):
  (tmp_path / "file").write_bytes(b"")
  with pytest.raises(errors.UserError, match="cannot write"):
    files.write_bytes(tmp_path / "file" / "x", b"")


def test_a_bucket_is_no_local_folder(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  assert files.absolute("gs://bucket/run") == "gs://bucket/run"
  assert files.absolute("run") == os.path.realpath(tmp_path / "run")
