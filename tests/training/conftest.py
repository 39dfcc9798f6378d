"""A small run of the digits config, and what it takes to compare two runs."""

import functools
import json
import pathlib
import shutil
import socket
import subprocess
import sys
import time
import types
from collections.abc import Callable, Iterator

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from ml_collections import ConfigDict

from scm_jax.cli import configs
from scm_jax.training.processes import cluster

# TensorBoard reads files by itself, without TensorFlow, which loads slowly.
sys.modules.setdefault("tensorboard.compat.notf", types.ModuleType("notf"))
ROOT = pathlib.Path(__file__).parents[2]
SETTINGS = (
  "--config.log_every=2",
  "--config.checkpoint_every=2",
  "--config.keep_checkpoints=100",
  "--config.snapshot_at=()",
  "--config.guide=",  # the teacher itself, without labels
)
STEPS = 12  # of the reference run
LONG_STEPS = 60  # of the run that others are killed and resumed to equal
PATIENCE = 900  # seconds to wait for a process before a test fails

State = dict[str, np.ndarray]


@pytest.fixture(scope="session")
def flags(flags) -> Callable[..., list[str]]:
  """`flags(run, *more)`: those of a small run that saves every 2 steps."""
  return lambda run="teacher", *more: flags(run, *SETTINGS, *more)


@pytest.fixture(scope="session")
def make_config(flags) -> Callable[..., ConfigDict]:
  """`make_config(run, *overrides)`."""
  return lambda *args: configs.parse_config(flags(*args))


@pytest.fixture(scope="session")
def train(shared_steps, data_dir) -> Callable[..., bool]:
  """`train(config, folder, on_batch)`; see `loop.train`.

  `on_batch(step, batch)` sees, and may replace, the batch of each step.
  """
  from scm_jax.data import pipeline, sources
  from scm_jax.training import loop

  def run(
    config: ConfigDict,
    folder: pathlib.Path,
    on_batch: Callable = lambda step, batch: None,
  ) -> bool:
    def batches(start: int):
      stream = pipeline.Batches(
        sources.open_source(config.data),
        batch_size=config.batch_size,
        seed=config.seed,
      ).iterate(start)
      for step, batch in enumerate(stream, start + 1):
        replaced = on_batch(step, batch)
        yield batch if replaced is None else replaced

    with shared_steps():
      return loop.train(config, str(folder), batches)

  return run


class Crash(Exception):
  """Stands for anything that ends a process."""


@pytest.fixture(scope="session")
def train_until(train) -> Callable[..., None]:
  """`train_until(step, config, folder)`: dies when it is to take that step."""

  def run(step: int, config: ConfigDict, folder: pathlib.Path) -> None:
    def crash(at: int, batch: dict) -> None:
      if at == step:
        raise Crash

    with pytest.raises(Crash):
      train(config, folder, crash)

  return run


@pytest.fixture(scope="session")
def reference(train, make_config, shared) -> pathlib.Path:
  """The workdir of a teacher never interrupted; every checkpoint is kept."""
  config = make_config("teacher", f"--config.total_steps={STEPS}")
  return shared("reference", lambda folder: train(config, folder))


@pytest.fixture(scope="session")
def long_reference(train, make_config, shared) -> pathlib.Path:
  """The same of more steps, in which there is time to kill a process."""
  config = make_config("teacher", f"--config.total_steps={LONG_STEPS}")
  return shared("long_reference", lambda folder: train(config, folder))


@pytest.fixture(scope="session")
def reference_student(train, make_config, reference, shared) -> pathlib.Path:
  """The workdir of an sCD student of `reference`, never interrupted."""
  config = make_config("scd", f"--config.teacher={reference}")
  return shared("reference_student", lambda folder: train(config, folder))


@pytest.fixture
def copy_at(reference, tmp_path) -> Callable[..., pathlib.Path]:
  """`copy_at(step, folder)`: the reference, as it was at that step."""

  def copy(step: int, folder: pathlib.Path = tmp_path / "run") -> pathlib.Path:
    shutil.copytree(reference, folder, ignore=lambda *_: ["checkpoints"])
    for path in (reference / "checkpoints").iterdir():
      if int(path.name) <= step:
        shutil.copytree(path, folder / "checkpoints" / path.name)
    return folder

  return copy


@pytest.fixture(scope="session")
def state_at() -> Callable[[pathlib.Path, int], State]:
  """`state_at(folder, step)`: all arrays of a checkpoint, read by Orbax alone.

  Parameters, the optimiser's state and the averages, by their paths.
  """

  @functools.cache
  def read_once(folder: pathlib.Path, step: int) -> State:
    arrays = {}
    for item in ("train", "ema"):
      with ocp.StandardCheckpointer() as reader:
        tree = reader.restore(folder / "checkpoints" / str(step) / item)
      for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        arrays[item + jax.tree_util.keystr(path)] = np.asarray(leaf)
    return arrays

  def read(folder: pathlib.Path, step: int) -> State:
    unchanging = folder.name in ("reference", "reference_student")
    return (read_once if unchanging else read_once.__wrapped__)(folder, step)

  return read


@pytest.fixture(scope="session")
def assert_equal_states() -> Callable[[State, State], None]:
  """Equal to the bit: NaN equals the same NaN, and 0 is not -0."""

  def check(a: State, b: State) -> None:
    assert a.keys() == b.keys()
    different = [
      name
      for name in a
      if a[name].dtype != b[name].dtype
      or a[name].tobytes() != b[name].tobytes()
    ]
    assert not different

  return check


@pytest.fixture(scope="session")
def steps_kept() -> Callable[[pathlib.Path], list[int]]:
  """`steps_kept(folder)`: the steps that have a checkpoint."""

  def kept(folder: pathlib.Path) -> list[int]:
    names = [path.name for path in (folder / "checkpoints").iterdir()]
    # What a save that failed or was killed left behind is no checkpoint.
    return sorted(int(name) for name in names if name.isdigit())

  return kept


@pytest.fixture(scope="session")
def read_metrics() -> Callable[[pathlib.Path], list[dict]]:
  """`read_metrics(folder)`: the lines of `metrics.jsonl`, without rates."""

  def read(folder: pathlib.Path) -> list[dict]:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    rates = ("steps_per_second", "images_per_second")
    return [
      {k: v for k, v in json.loads(line).items() if k not in rates}
      for line in lines
    ]

  return read


@pytest.fixture
def start(data_dir, tmp_path) -> Iterator:
  """`start(*argv)`: `scm-jax` as a process of its own.

  Its standard error goes to the file `process.log`. It is killed at the end of
  the test if it still runs.
  """
  processes = []

  def run(*argv, prefix=("-m", "scm_jax")) -> subprocess.Popen:
    log = tmp_path / f"stderr_{len(processes)}"
    process = subprocess.Popen(
      [sys.executable, *prefix, *map(str, argv)],
      cwd=ROOT,
      stdout=subprocess.DEVNULL,
      stderr=log.open("w"),
    )
    process.log = log
    processes.append(process)
    return process

  yield run
  for process in processes:
    process.kill()
    process.wait()


@pytest.fixture(scope="session")
def free_port() -> Callable[[], int]:
  """`free_port()`: one of this machine that nobody listens at."""

  def find() -> int:
    with socket.socket() as probe:
      probe.bind(("localhost", 0))
      return probe.getsockname()[1]

  return find


@pytest.fixture
def pair(start, free_port, monkeypatch) -> Callable[..., list]:
  """`pair(*argv)`: two processes of `scm-jax` that do one thing together."""

  def run(*argv, **options) -> list[subprocess.Popen]:
    monkeypatch.setenv("SCM_COORDINATOR", f"localhost:{free_port()}")
    monkeypatch.setenv("SCM_NUM_PROCESSES", "2")
    monkeypatch.setenv("SCM_INIT_TIMEOUT", str(PATIENCE))
    processes = []
    for index in range(2):
      monkeypatch.setenv("SCM_PROCESS_ID", str(index))
      processes.append(start(*argv, **options))
    for name in cluster.PLAIN:
      monkeypatch.delenv(name)
    return processes

  return run


@pytest.fixture(scope="session")
def wait_until() -> Callable:
  """`wait_until(condition, processes)`, all of which go on meanwhile."""

  def wait(condition: Callable[[], object], processes: list) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
      for process in processes:
        assert process.poll() is None, process.log.read_text()[-2000:]
      assert time.monotonic() < end
      time.sleep(0.01)

  return wait


@pytest.fixture(scope="session")
def printed_by(python, shared) -> Callable:
  """`printed_by(name, *argv)`: the object that a script in this folder prints.

  A process of its own, because devices are counted when jax starts.
  """

  def run(name: str, *argv: str) -> dict:
    script = pathlib.Path(__file__).with_name(f"{name}.py")

    def build(folder: pathlib.Path) -> None:
      (folder / "work").mkdir()
      printed = python(script, folder / "work", *argv, cwd=ROOT)
      (folder / "printed.json").write_text(printed)
      shutil.rmtree(folder / "work")

    folder = shared("-".join((name, *argv)), build)
    return json.loads((folder / "printed.json").read_text())

  return run


@pytest.fixture(scope="session")
def eight_devices(printed_by: Callable) -> dict:
  """What `eight_devices.py` prints."""
  return printed_by("eight_devices")


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Callable[[int], pathlib.Path]]:
  """`small_disk(megabytes)`: a folder on a file system of that size."""
  mounted = []

  def make(megabytes: int) -> pathlib.Path:
    folder = tmp_path / "disk"
    folder.mkdir()
    size = f"size={megabytes}m"
    mount = ["mount", "-t", "tmpfs", "-o", size, "tmpfs", str(folder)]
    try:
      done = subprocess.run(mount, capture_output=True, text=True)
    except OSError as error:
      pytest.skip(f"mount a tmpfs: {error}")
    if done.returncode:
      pytest.skip(f"mount a tmpfs: {done.stderr.strip()}")
    mounted.append(folder)
    return folder

  yield make
  for folder in mounted:
    subprocess.run(["umount", "--lazy", str(folder)], check=True)
