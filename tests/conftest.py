"""Settings and fixtures that all tests share, and the tiers of tests."""

import contextlib
import ctypes
import fcntl
import gc
import importlib.util
import os
import pathlib
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib import metadata
from typing import Any

import pytest
from absl.flags import FLAGS

# Read when TensorFlow is loaded, which a test may do before any command does.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
# Tests of GPUs start processes of their own; see tests/gpu.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Compiled programs are shared by test processes, by the commands that tests
# run, and by one session with the next. Set before jax is imported.
_CACHE = pathlib.Path(__file__).parents[1] / ".cache" / "jax"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(_CACHE))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")
# XLA takes longer to optimise the tests' small programs than to run them.
_QUICK = "JAX_DISABLE_MOST_OPTIMIZATIONS"
os.environ.setdefault(_QUICK, "true")
# Likewise: emitting each fusion by MLIR takes half of the compilation, and
# parts of a program that are generated at once serve those who have idle cores.
# Newer versions emit fusions by MLIR alone, and refuse the flag.
if metadata.version("jaxlib").startswith("0.10."):
  os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_cpu_use_fusion_emitters=false"
    " --xla_cpu_parallel_codegen_split_count=1",
  )
# Programs need not say from which lines they were traced.
os.environ.setdefault("JAX_TRACEBACK_IN_LOCATIONS_LIMIT", "0")

_CACHE_LIMIT = 2_000_000_000  # bytes of compiled programs kept on disk
_MEMORY_LIMIT = 3_000_000_000  # bytes of a test process

_may_share = False  # whether the test that runs may use the steps of others


def pytest_configure(config: pytest.Config) -> None:
  # Grain's worker processes read absl flags, which nobody parses under pytest.
  FLAGS.mark_as_parsed()
  for name in ("disks.py", "random_networks.py"):  # more fixtures
    config.pluginmanager.register(_module(name))
  if not hasattr(config, "workerinput"):  # not in the workers of pytest-xdist
    _trim_cache(pathlib.Path(os.environ["JAX_COMPILATION_CACHE_DIR"]))


def _trim_cache(folder: pathlib.Path) -> None:
  """Deletes damaged programs, and the oldest beyond the cache's limit.

  JAX would do the latter itself (`jax_compilation_cache_max_size`), but reads
  the whole folder for each program that it adds.
  """
  entries = {path: path.stat() for path in folder.glob("*-cache")}
  kept = 0
  for path in sorted(entries, key=lambda path: -entries[path].st_mtime):
    kept += entries[path].st_size
    # A process that is killed while it writes leaves an empty file.
    if not entries[path].st_size or kept > _CACHE_LIMIT:
      path.unlink(missing_ok=True)


# Fixtures that build a dataset or train, and folders whose tests start
# processes or load other frameworks: what asks for them is no unit test.
_HEAVY_FIXTURES = {"data_dir", "shared", "autoencoder_folder"}
_HEAVY_FOLDERS = {"export", "launch", "notebooks", "preparing", "sweeping"}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Function]) -> None:
  """Puts each test that has no tier into `integration` or `unit`."""
  for item in items:
    folders = item.path.relative_to(pathlib.Path(__file__).parent).parts
    if any(map(item.get_closest_marker, ("integration", "slow", "gpu"))):
      continue
    heavy = _HEAVY_FIXTURES.intersection(item.fixturenames)
    heavy |= _HEAVY_FOLDERS.intersection(folders)
    item.add_marker("integration" if heavy else "unit")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
  """Runs the tests of a folder in one process, because they share programs.

  By a scheduler of our own: `--dist loadgroup` with marks, which says the same,
  sends every test anywhere since pytest 9.2, whose ids of tests pytest-xdist
  3.8 cannot extend by the name of a group.
  """
  from xdist import scheduler

  class ByFolder(scheduler.LoadScopeScheduling):
    def _split_scope(self, nodeid: str) -> str:
      path = nodeid.partition("::")[0]
      return pathlib.PurePosixPath(path).parts[1]  # after tests/

  return ByFolder(config, log)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Function) -> None:
  """Chooses how programs are compiled, here and in processes of the test."""
  quick = not item.get_closest_marker("optimized")
  os.environ[_QUICK] = str(quick).lower()
  if "jax" in sys.modules:
    name = _QUICK.lower()
    sys.modules["jax"].config.update(name, quick)
  # What a test has replaced may be part of a program.
  own = {"monkeypatch", "own_steps"} & set(item.fixturenames)
  global _may_share
  _may_share = quick and not own


def pytest_collection_finish() -> None:
  """Spares the garbage collector what lives as long as the process."""
  gc.collect()
  gc.freeze()
  gc.set_threshold(20_000, 50, 100)  # tracing makes many objects that stay


@pytest.fixture(scope="session")
def new_sharing() -> Callable:
  """`with new_sharing().on():` as `shared_steps`, but among these runs alone.

  For tests that ask for `own_steps`.
  """
  return _module("shared_steps.py").Sharing


@pytest.fixture(scope="session")
def shared_steps(new_sharing) -> Callable:
  """`with shared_steps():` runs of one config use one train step.

  Not within tests that ask for `monkeypatch`, `own_steps`, or for optimised
  programs.
  """
  sharing = new_sharing()

  @contextlib.contextmanager
  def share() -> Iterator[None]:
    with sharing.on() if _may_share else contextlib.nullcontext():
      yield

  return share


@pytest.fixture
def own_steps() -> None:
  """The test's runs make their train steps themselves."""


@pytest.fixture(scope="module", autouse=True)
def bounded_memory() -> Iterator[None]:
  """Forgets compiled programs between files once they fill gigabytes.

  Not after every file: many programs serve several.
  """
  yield
  if "jax" in sys.modules and _resident_bytes() > _MEMORY_LIMIT:
    sys.modules["jax"].clear_caches()
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):  # not glibc
      ctypes.CDLL(None).malloc_trim(0)  # or the process stays as large


def _resident_bytes() -> int:
  try:
    pages = pathlib.Path("/proc/self/statm").read_text().split()[1]
  except OSError:  # not Linux
    return 0
  return int(pages) * os.sysconf("SC_PAGE_SIZE")


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Callable:
  """`shared(name, build)`: a copy of the folder that `build(folder)` fills.

  The folder is built once, by the test process that asks for it first; each
  process gets a copy of its own, in which tests may write.
  """
  base = tmp_path_factory.getbasetemp()
  common = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base

  def get(name: str, build: Callable[[pathlib.Path], object]) -> pathlib.Path:
    built = common / "shared" / name
    built.parent.mkdir(exist_ok=True)
    done = built.with_suffix(".done")
    with _locked(built.with_suffix(".lock")):
      if not done.exists():
        shutil.rmtree(built, ignore_errors=True)
        built.mkdir()
        build(built)
        done.touch()
    return shutil.copytree(built, tmp_path_factory.mktemp(name) / name)

  return get


@contextlib.contextmanager
def _locked(path: pathlib.Path) -> Iterator[None]:
  with path.open("w") as file:
    fcntl.flock(file, fcntl.LOCK_EX)  # released when the file is closed
    yield


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
def compilation_cache() -> pathlib.Path:
  """The folder of compiled programs, which all test processes share."""
  return pathlib.Path(os.environ["JAX_COMPILATION_CACHE_DIR"])


@pytest.fixture(scope="session")
def python() -> Callable[..., str]:
  """`python(*argv, **variables)`: what a process of its own prints.

  It must succeed. `cwd` is its folder, `stdin` what it reads; the variables are
  added to this process's, among which are those of compiled programs.
  """

  def run(*argv, cwd=None, stdin: str = "", **variables: str) -> str:
    done = subprocess.run(
      [sys.executable, *map(str, argv)],
      input=stdin,
      cwd=cwd,
      env=os.environ | variables,
      capture_output=True,
      text=True,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout

  return run


@pytest.fixture
def compile_into() -> Iterator[Callable[[pathlib.Path | None], None]]:
  """`compile_into(folder)`: the test keeps its programs there, or nowhere.

  Other test processes add programs to the folder that all share. It is in use
  again after the test.
  """
  import jax
  from jax.experimental.compilation_cache import compilation_cache as cache

  names = (
    "jax_compilation_cache_dir",
    "jax_persistent_cache_min_compile_time_secs",
  )
  before = {name: getattr(jax.config, name) for name in names}

  def choose(folder: pathlib.Path | None) -> None:
    jax.config.update(names[0], folder and str(folder))
    cache.reset_cache()

  yield choose
  for name, value in before.items():
    jax.config.update(name, value)
  cache.reset_cache()


@pytest.fixture(scope="session")
def data_dir(tfds_data_dir: pathlib.Path, shared: Callable) -> str:
  """The same folder, once the dataset `scm_digits` is in it."""

  def build(folder: pathlib.Path) -> None:
    from scm_jax.data import bundled, digits

    bundled.prepare(
      digits.ScmDigits(data_dir=folder, file_format="array_record")
    )

  shutil.copytree(shared("digits", build), tfds_data_dir, dirs_exist_ok=True)
  return str(tfds_data_dir)


@pytest.fixture(scope="session")
def load_module() -> Callable[[str], Any]:
  """`load_module(name)`: of a file, by its path from this folder."""
  return _module


@pytest.fixture(scope="session")
def photographs() -> Any:
  """The module that writes folders such as ImageNet's."""
  return _module("preparing/photographs.py")


def _module(name: str) -> Any:
  """Loads a module by its path from this folder; tests are no package."""
  path = pathlib.Path(__file__).parent / name
  spec = importlib.util.spec_from_file_location(path.stem, path)
  assert spec and spec.loader
  module = importlib.util.module_from_spec(spec)
  sys.modules[path.stem] = module
  spec.loader.exec_module(module)
  return module


@pytest.fixture(scope="session")
def flags() -> Callable[..., list[str]]:
  """`flags(run, *more)`: those of a small run on the digits.

  One level of one block: the same code path, a third of the compilation.
  """
  config = pathlib.Path(__file__).parents[1] / "configs" / "digits.py"
  small = (
    "--config.network.channel_mult=(1,)",
    "--config.network.num_blocks=1",
    "--config.seed=1",
  )

  def make(run: str = "teacher", *more: str) -> list[str]:
    # The last of a repeated override counts here; the command refuses it.
    given = {flag.partition("=")[0]: flag for flag in (*small, *more)}
    return [f"--config={config}:run={run},tiny", *given.values()]

  return make


@pytest.fixture
def command(shared_steps, data_dir, capfd) -> Callable:
  """`command(*argv)`: exit code, stdout and stderr of `scm-jax`, in process."""

  from scm_jax.cli import main

  def run(*argv) -> tuple[int, str, str]:
    capfd.readouterr()
    with shared_steps():
      code = main.main([str(word) for word in argv])
    return code, *capfd.readouterr()

  return run


@pytest.fixture
def printed(command) -> Callable[..., str]:
  """`printed(*argv)`: what a command prints, which succeeds."""

  def run(*argv) -> str:
    code, out, err = command(*argv)
    assert code == 0, err
    return out

  return run


@pytest.fixture
def refused(command) -> Callable:
  """`refused(code, *argv)`: the one line with which a command ends so."""

  def run(code: int, *argv) -> str:
    given, out, err = command(*argv)
    assert (given, out) == (code, ""), err
    assert err.count("\n") == 1 and err.startswith(f"scm-jax {argv[0]}: "), err
    return err

  return run
