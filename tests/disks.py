"""Fixtures: a bucket that is not real, and kills at operations on files."""

import contextlib
import pathlib
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import fsspec
import pytest
from etils import epath
from etils.epath import gpath
from fsspec.implementations import memory


class _FakeBucket(memory.MemoryFileSystem):
  """A bucket in memory; nothing can be appended to its objects."""

  protocol = ("gcs", "gs")

  @classmethod
  def _strip_protocol(cls, path: Any) -> str:
    return "/" + str(path).removeprefix("gs://").strip("/")

  def open(self, path: Any, mode: str = "rb", **kwargs: Any) -> Any:
    assert "a" not in mode
    return super().open(path, mode, **kwargs)


@pytest.fixture
def bucket(
  monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> epath.Path:
  """A path in a bucket that is not real, read without TensorFlow."""
  # Etils keeps the first file system of a process: there must be one class.
  fsspec.register_implementation("gcs", _FakeBucket, clobber=True)
  monkeypatch.setattr(gpath, "_is_tf_installed", lambda: False)
  return epath.Path(f"gs://{tmp_path.name}")


class _Killed(BaseException):
  """Stands for the end of a process."""


@pytest.fixture
def killed_at() -> Callable:
  """`with killed_at(number, done) as begun`: ends the body like a kill.

  The body ends at its operation on files of this number, from 1 on: before it,
  or after it if `done`. From then on the disk does not change, so that the
  body's clean-up does nothing. `begun` lists the operations.
  """
  remote = type(epath.Path("gs://bucket"))
  operations = [(pathlib.Path, name) for name in ("mkdir", "open", "rename")]
  operations += [(remote, name) for name in ("mkdir", "open", "copy", "unlink")]
  operations += [(remote, "rmtree"), (shutil, "rmtree")]

  @contextlib.contextmanager
  def run(number: int, done: bool = False) -> Iterator[list[str]]:
    begun: list[str] = []

    def wrap(name: str, real: Callable) -> Callable:
      def call(*args, **kwargs):
        begun.append(name)
        if len(begun) > number or (len(begun) == number and not done):
          raise _Killed
        result = real(*args, **kwargs)
        if len(begun) == number:
          raise _Killed
        return result

      return call

    with pytest.MonkeyPatch.context() as patch, contextlib.suppress(_Killed):
      for owner, name in operations:
        patch.setattr(owner, name, wrap(name, getattr(owner, name)))
      yield begun

  return run


@pytest.fixture(params=[True, False], ids=["exchanged", "renamed"])
def exchange(
  request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> bool:
  """Whether the system exchanges two folders in one step, as Linux does."""
  from scm_jax import files

  if not request.param:
    monkeypatch.setattr(files, "_exchanged", lambda a, b: False)
  return request.param
