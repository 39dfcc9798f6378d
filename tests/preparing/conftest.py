"""A folder of photographs as a user may have them, and what is made of it."""

import pathlib
from collections.abc import Callable

import pytest


@pytest.fixture(scope="session")
def tree(photographs, tmp_path_factory) -> pathlib.Path:
  """30 images in 3 class folders, a truncated one, and one that is none."""
  folder = tmp_path_factory.mktemp("photographs") / "train"
  photographs.write(folder)
  return folder


@pytest.fixture
def prepare(command) -> Callable:
  """`prepare(source, out, *flags)`: stdout and stderr of the task."""

  def run(source, out, *flags, code: int = 0) -> tuple[str, str]:
    argv = ["prepare", f"--source={source}", f"--out={out}", "--workers=1"]
    given, stdout, stderr = command(*argv, *flags)
    assert given == code, stderr
    return stdout, stderr

  return run


SMALL = ("--size=16", "--name=photos", "--shards=4", "--on-error=skip")


@pytest.fixture
def photos(prepare, tree, tmp_path) -> pathlib.Path:
  """The folder of the dataset `photos` in `tmp_path / "whole"`."""
  prepare(tree, tmp_path / "whole", *SMALL)
  return tmp_path / "whole/photos/1.0.0"


@pytest.fixture
def content() -> Callable[[pathlib.Path], dict[str, bytes]]:
  """`content(folder)`: every file below it."""

  def read(folder: pathlib.Path) -> dict[str, bytes]:
    return {
      str(path.relative_to(folder)): path.read_bytes()
      for path in sorted(folder.rglob("*"))
      if path.is_file()
    }

  return read


@pytest.fixture
def opened() -> Callable:
  """`opened(out, **changes)`: the dataset as training opens it."""
  from scm_jax.data import sources
  from scm_jax.defaults import get_defaults

  def open_source(out, **changes):
    config = get_defaults().data
    own = dict(name="photos", size=16, num_classes=3)
    config.update({**own, "data_dir": str(out), **changes})
    return sources.open_source(config)

  return open_source
