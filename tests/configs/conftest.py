"""The paper's configs, as the command line reads them."""

import dataclasses
import functools
import math
import pathlib
from collections.abc import Callable

import pytest
from ml_collections import ConfigDict

from scm_jax.cli import configs

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture(scope="session")
def load() -> Callable[..., ConfigDict]:
  """`load("imagenet64", "run=scd,size=m")`: the locked config."""

  @functools.cache
  def parse(name: str, arg: str) -> ConfigDict:
    config = configs.parse_config([f"--config={ROOT}/configs/{name}.py:{arg}"])
    if config.run != "teacher":
      config.teacher = "teacher"  # as every student's command names one
    return config

  return parse


@pytest.fixture(scope="session")
def parameters(load) -> Callable[[str, str], int]:
  """`parameters(name, arg)`: how many a config's network has.

  A parameter array's size is proportional to a power of the network's width.
  Each architecture is traced at two widths, which tell the power, and the
  count at its own width follows.
  """
  import jax

  from scm_jax import networks
  from scm_jax.training import resolve

  widths = 64, 128

  @functools.cache
  def sizes(network: networks.NetworkConfig) -> list[int]:
    shapes = networks.build(network).shapes["denoiser"]
    return [leaf.size for leaf in jax.tree.leaves(shapes)]

  def count(name: str, arg: str) -> int:
    network = resolve.resolve(load(name, arg)).network
    narrow, wide = (
      sizes(dataclasses.replace(network, channels=width, dropout=0.0))
      for width in widths
    )
    ratio, total = network.channels / widths[0], 0.0
    for small, large in zip(narrow, wide, strict=True):
      power = math.log2(large / small)
      assert power in (0, 1, 2)
      total += small * ratio**power
    return round(total)

  return count
