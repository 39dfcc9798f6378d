"""A config small enough to be compiled for other hardware in seconds."""

import copy
import os
import pathlib
import subprocess
import sys
import textwrap
from collections.abc import Callable
from typing import Any

import pytest

DIGITS = pathlib.Path(__file__).parents[2] / "configs" / "digits.py"
FLAGS = (
  f"--config={DIGITS}:run=scd,tiny",
  "--config.guide=",  # the teacher itself, without labels
  "--config.network.channel_mult=(1,)",
  "--config.network.num_blocks=1",
  "--config.batch_size=16",
  "--config.mesh.fsdp=4",
  "--config.sharding.min_size=512",
)


@pytest.fixture(scope="session")
def flags() -> tuple[str, ...]:
  """Flags of a distillation whose state is sharded."""
  return FLAGS


@pytest.fixture(scope="module")
def _config() -> Any:
  from scm_jax.cli import configs

  config = configs.parse_config(FLAGS)
  config.teacher = "random"
  return config


@pytest.fixture
def config(_config) -> Any:
  """Returns the parsed config of `flags`; a test may change it."""
  return copy.deepcopy(_config)


@pytest.fixture
def run_in_process() -> Callable[..., str]:
  """Returns `run(code, devices)`: what Python prints on virtual devices."""

  def run(code: str, devices: int) -> str:
    return subprocess.run(
      [sys.executable, "-c", textwrap.dedent(code)],
      env=os.environ
      | {"JAX_NUM_CPU_DEVICES": str(devices), "JAX_PLATFORMS": "cpu"},
      check=True,
      capture_output=True,
      text=True,
    ).stdout

  return run
