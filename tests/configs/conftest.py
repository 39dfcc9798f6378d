"""The paper's configs, as the command line reads them."""

import functools
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
  """`parameters(name, arg)`: of a config's network, by its shapes alone."""
  import jax

  from scm_jax import networks
  from scm_jax.training import resolve

  @functools.cache
  def count(network: networks.NetworkConfig) -> int:
    init = networks.build(network).init
    return networks.parameter_count(jax.eval_shape(init, jax.random.key(0)))

  return lambda name, arg: count(resolve.network_config(load(name, arg)))
