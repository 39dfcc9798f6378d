"""A tiny teacher and a tiny student, served."""

import contextlib
import pathlib
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest
from starlette.testclient import TestClient

import scm_jax
from scm_jax.interop import export_folder
from scm_jax.serving import app, guard
from scm_jax.serving.engine import Engine
from scm_jax.serving.models import Model

KINDS = {"student": "consistency", "teacher": "diffusion"}
URL = "http://127.0.0.1:8000"


@pytest.fixture(scope="session")
def exports(tiny_sampler, tmp_path_factory) -> dict[str, pathlib.Path]:
  """The folders of exports of both, by their names."""
  root = tmp_path_factory.mktemp("served")
  training = {
    "sample": {"solver_steps": 4},
    "objective": {"label_dropout": 0.1},
  }
  origin = export_folder.Origin(training, 7, "0.050")
  for name, kind in KINDS.items():
    (root / name).mkdir()
    export_folder.write(root / name, tiny_sampler(kind), origin)
  return {name: root / name for name in KINDS}


@pytest.fixture(scope="session")
def models(exports) -> dict[str, Model]:
  return {
    name: Model(name, str(path), scm_jax.load(path))
    for name, path in exports.items()
  }


@pytest.fixture
def engine() -> Iterator[Engine]:
  made = Engine()
  yield made
  made.close()


@pytest.fixture
def client(models, engine) -> TestClient:
  """A client of this machine, by the address that it knows."""
  guarded = guard.Guard(app.make(models, engine), ("127.0.0.1",), "")
  return TestClient(guarded, URL)


@pytest.fixture
def post(client) -> Callable:
  """`post(path, body)`: the answer to a JSON object."""
  return lambda path, body: client.post(path, json=body)


@pytest.fixture(scope="session")
def serving() -> Callable:
  """`with serving(*argv) as (process, address):` a server of its own."""

  @contextlib.contextmanager
  def start(*argv: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    command = [sys.executable, "-m", "scm_jax", "serve", "--no-browser"]
    process = subprocess.Popen(
      [*command, "--port=0", *argv],
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
    )
    try:
      assert process.stdout
      yield process, process.stdout.readline().split()[0]
    finally:
      process.kill()
      process.wait()

  return start
