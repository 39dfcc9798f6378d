"""A config small enough to be compiled for other hardware in seconds."""

import copy
import pathlib
from collections.abc import Callable
from typing import Any

import pytest

from scm_jax.cli import configs, main
from scm_jax.errors import UserError
from scm_jax.planning import compile as compiler
from scm_jax.planning import targets, topology

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
  config = configs.parse_config(FLAGS)
  config.teacher = "random"
  return config


@pytest.fixture
def config(_config) -> Any:
  """Returns the parsed config of `flags`; a test may change it."""
  return copy.deepcopy(_config)


@pytest.fixture
def run(flags, capfd) -> Callable[..., tuple[int, str, str]]:
  """Returns `run(*argv)`: exit code, stdout and stderr of `scm-jax plan`."""

  def call(*argv: str) -> tuple[int, str, str]:
    code = main.main(["plan", *flags, *argv])
    return code, *capfd.readouterr()

  return call


@pytest.fixture
def compiled(answer, monkeypatch) -> None:
  """Makes the worker give the file's `answer` to every request."""
  monkeypatch.setattr(compiler, "ask", lambda *_, **__: answer)


@pytest.fixture
def needs_plugin() -> Callable[[targets.Target], None]:
  """Returns `needs_plugin(target)`, which skips where its compiler is not."""

  def check(target: targets.Target) -> None:
    try:
      topology.check_plugin(target)
    except UserError as error:
      pytest.skip(str(error))

  return check
