"""Train steps that runs of one test process share."""

import contextlib
import dataclasses
import functools
from collections.abc import Iterator
from typing import Any

import jax
import pytest

from scm_jax import defaults
from scm_jax.planning import arithmetic
from scm_jax.training import program, step

# Fields of a run that its step does not depend on.
_OTHERS = {"log_every", "sample_every", "evaluate_every", "checkpoint_every"}
_OTHERS |= {"keep_checkpoints", "keep_every", "snapshot_every", "profile"}
_OTHERS |= {"teacher", "teacher_ema", "start", "seed", "divergence_limit"}
_OTHERS |= {"guide_ema", "snapshot_at"}
_OTHERS |= {"nonfinite", "watchdog", "memory_check"}
_FIELDS = {field.name: field for field in dataclasses.fields(defaults.Run)}
_SAME = {name: _FIELDS[name].default for name in _OTHERS}
_SAME |= {"sample": defaults.Sample(), "evaluate": defaults.Evaluate()}


class Sharing:
  """Train steps by what they depend on, which runs of a process share.

  Tracing and loading a step takes as long as all else that a tiny run does.
  """

  def __init__(self) -> None:
    self._steps: dict[Any, program.Program] = {}
    self._starts: dict[Any, Any] = {}

  @contextlib.contextmanager
  def on(self) -> Iterator[None]:
    """Shares the steps, and the states before them, that are made meanwhile."""

    new_step, new_start = program.make, step.init_state

    def make(config: Any, *rest: Any) -> Any:
      key = _core(config), *rest
      if key not in self._steps:
        self._steps[key] = new_step(config, *rest)
      return self._steps[key]

    def init(config: Any, start: Any = None, seed: Any = None) -> Any:
      key = _core(config)
      if key not in self._starts:
        self._starts[key] = jax.jit(functools.partial(new_start, config))
      seed = step.seed_of(config) if seed is None else seed
      return self._starts[key](start, seed)

    with pytest.MonkeyPatch.context() as patch:
      patch.setattr(program, "make", make)
      for module in (program, arithmetic):
        patch.setattr(module, "init_state", init)
      yield


def _core(config: defaults.Run) -> defaults.Run:
  """Returns the run with everything alike that its step does not depend on."""
  alike = {} if config.optimizer.cooldown else {"total_steps": 1}
  data = dataclasses.replace(config.data, data_dir="")
  return dataclasses.replace(config, data=data, **_SAME, **alike)
