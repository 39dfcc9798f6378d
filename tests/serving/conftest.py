"""A tiny teacher and a tiny student, served."""

import contextlib
import pathlib
import subprocess
import sys
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from starlette.testclient import TestClient

import scm_jax
from scm_jax import networks
from scm_jax.codec import PixelCodec
from scm_jax.interop import export_folder
from scm_jax.networks import magnitude
from scm_jax.sampler import Sampler
from scm_jax.serving import app, guard
from scm_jax.serving.engine import Engine
from scm_jax.serving.models import Model

SIDE, CLASSES = 4, 3
KINDS = {"student": "consistency", "teacher": "diffusion"}
URL = "http://127.0.0.1:8000"


def build(kind: str) -> Sampler:
  """A sampler with random weights, of which none is zero."""
  config = networks.UNetConfig(
    resolution=SIDE,
    in_channels=1,
    num_classes=CLASSES,
    channels=8,
    channel_mult=(1,),
    num_blocks=1,
    attn_resolutions=(),
    channels_per_head=4,
    guidance=kind == "consistency",
  )
  network = networks.build(config)
  rng = np.random.default_rng(0)
  draw = lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), jnp.float32)
  shapes = network.shapes
  params = magnitude.normalize_weights(jax.tree.map(draw, shapes))
  params["denoiser"]["out_gain"] = jnp.float32(0.5)
  return Sampler(network, params, PixelCodec(-0.2, 0.6, 0.5), kind)


@pytest.fixture(scope="session")
def exports(tmp_path_factory) -> dict[str, pathlib.Path]:
  """The folders of exports of both, by their names."""
  root = tmp_path_factory.mktemp("served")
  training = {
    "sample": {"solver_steps": 4},
    "objective": {"label_dropout": 0.1},
  }
  origin = export_folder.Origin(training, 7, "0.050")
  for name, kind in KINDS.items():
    (root / name).mkdir()
    export_folder.write(root / name, build(kind), origin)
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
