"""A reference of EDM2's own network, and tiny networks of random weights."""

import dataclasses
import json
import pathlib
from typing import Any

import numpy as np
import pytest
from flax import traverse_util

# Inputs and outputs that EDM2's own code computed, with random weights.
REFERENCE = pathlib.Path(__file__).with_name("edm2_tiny.safetensors")


@pytest.fixture(scope="session")
def forgery(load_module) -> Any:
  """Returns the module `forgery`, which writes network pickles."""
  pytest.importorskip("torch")
  return load_module("interop/forgery.py")


@pytest.fixture(scope="session")
def reference() -> tuple[dict[str, np.ndarray], dict[str, Any]]:
  """Returns the tensors and the config of `edm2_tiny.safetensors`."""
  from scm_jax.interop import safetensors

  tensors, metadata = safetensors.read(REFERENCE)
  return tensors, json.loads(metadata["config"])


@pytest.fixture(scope="session")
def small() -> Any:
  """`small(**changes)` returns a config of an EDM2 network for 8x8x1 data."""
  from scm_jax import networks

  config = networks.UNetConfig(
    resolution=8,
    in_channels=1,
    num_classes=10,
    form="edm2",
    channels=8,
    channel_mult=(1,),
    num_blocks=1,
    attn_resolutions=(),
    channels_per_head=8,
  )
  return lambda **changes: dataclasses.replace(config, **changes)


@pytest.fixture(scope="session")
def draw_params(forgery) -> Any:
  """`draw_params(config)` returns random tensors by PyTorch's names."""
  from scm_jax import networks
  from scm_jax.interop import edm2_names

  def draw(config, seed=0) -> dict[str, np.ndarray]:
    leaves = networks.build(config).shapes
    shapes = {}
    for path, leaf in traverse_util.flatten_dict(leaves).items():
      array = edm2_names.to_theirs(np.broadcast_to(0.0, leaf.shape), path)
      shapes[edm2_names.to_name(path, config.resolution)] = array.shape
    params = forgery.random_params(shapes, seed)
    params["unet.out_gain"] = np.full((), 0.7, np.float16)
    return params

  return draw


@pytest.fixture(scope="session")
def write_pickle(forgery, draw_params) -> Any:
  """`write_pickle(path, config, encoder)` saves a network as EDM2 does."""

  def write(path, config, encoder=None, seed=0) -> pathlib.Path:
    ema = forgery.network(draw_params(config, seed), config)
    data = forgery.snapshot(ema, encoder or forgery.pixels())
    path.write_bytes(forgery.plain(data))
    return path

  return write
