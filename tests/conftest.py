"""What all tests share: parsed flags and a folder of datasets."""

import os
import pathlib
from collections.abc import Callable, Iterator

import pytest
from absl import flags

# Read when TensorFlow is loaded, which a test may do before any command does.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
# Where libtpu is installed, to compile with, jax would look for a TPU and say
# on standard error that there is none.
os.environ.setdefault("JAX_PLATFORMS", "cpu")


def pytest_configure() -> None:
  # Grain's worker processes read absl flags, which nobody parses under pytest.
  flags.FLAGS.mark_as_parsed()


@pytest.fixture(scope="session", autouse=True)
def tfds_data_dir(
  tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[pathlib.Path]:
  """The default folder of datasets, so that no test writes to the home."""
  folder = tmp_path_factory.mktemp("tensorflow_datasets")
  with pytest.MonkeyPatch.context() as patch:
    patch.setitem(os.environ, "TFDS_DATA_DIR", str(folder))
    yield folder


@pytest.fixture(scope="session")
def compilation_cache(
  tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[pathlib.Path]:
  """Programs compiled once for all runs, here and in other processes.

  With JAX_COMPILATION_CACHE_DIR set, they are kept there for the next session.
  """
  import jax
  from jax.experimental.compilation_cache import compilation_cache

  folder = tmp_path_factory.getbasetemp() / "jax_compilation_cache"
  folder = pathlib.Path(os.environ.get("JAX_COMPILATION_CACHE_DIR", folder))
  names = (
    "jax_compilation_cache_dir",
    "jax_persistent_cache_min_compile_time_secs",
  )
  before = [getattr(jax.config, name) for name in names]
  for name, value in zip(names, (str(folder), 0.0), strict=True):
    jax.config.update(name, value)
  compilation_cache.reset_cache()
  yield folder
  for name, value in zip(names, before, strict=True):
    jax.config.update(name, value)
  compilation_cache.reset_cache()


@pytest.fixture(scope="session")
def data_dir(tfds_data_dir: pathlib.Path) -> str:
  """The same folder, once the dataset `scm_digits` has been built in it."""
  from scm_jax.data import bundled, digits

  bundled.prepare(
    digits.ScmDigits(data_dir=tfds_data_dir, file_format="array_record")
  )
  return str(tfds_data_dir)


@pytest.fixture
def command(compilation_cache, data_dir, capfd) -> Callable:
  """`command(*argv)`: exit code, stdout and stderr of `scm-jax`, in process."""

  from scm_jax.cli import main

  def run(*argv) -> tuple[int, str, str]:
    capfd.readouterr()
    code = main.main([str(word) for word in argv])
    return code, *capfd.readouterr()

  return run
