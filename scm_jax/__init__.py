"""Continuous-time consistency models (sCM) in JAX.

    images = scm_jax.load("exports/digits").sample([3, 7], steps=2)

and, for a network and a loop of your own (see `examples/own_network.py`):

    loss, metrics = scm_jax.consistency.loss(
        scm_jax.Student(F), params, scm_jax.Point(x0, z, t), velocity,
        scm_jax.consistency.Options(sigma_d=0.5), step)

These names need jax, flax and numpy alone; everything above them in the package
needs the extra `scm-jax[train]`. They are imported when they are first used, so
that `scm-jax --help` does without jax.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
  from scm_jax import networks, objectives, samplers, trigflow
  from scm_jax.loading import load
  from scm_jax.objectives import (
    OBJECTIVES,
    Point,
    Student,
    consistency,
    diffusion,
    velocity,
  )
  from scm_jax.sampler import Sampler

_MODULES = {
  "load": "scm_jax.loading",
  "Sampler": "scm_jax.sampler",
  "OBJECTIVES": "scm_jax.objectives",
  "Point": "scm_jax.objectives",
  "Student": "scm_jax.objectives",
  "consistency": "scm_jax.objectives",
  "diffusion": "scm_jax.objectives",
  "velocity": "scm_jax.objectives",
}
_ROOMS = ("networks", "objectives", "samplers", "trigflow")

__all__ = [
  "OBJECTIVES",
  "Point",
  "Sampler",
  "Student",
  "consistency",
  "diffusion",
  "load",
  "networks",
  "objectives",
  "samplers",
  "trigflow",
  "velocity",
]


def __getattr__(name: str) -> Any:
  """Imports a public name when it is first used.

  Raises:
    AttributeError: the package has no such name.
  """
  if name in _ROOMS:
    return importlib.import_module(f"scm_jax.{name}")
  if name not in _MODULES:
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
  return getattr(importlib.import_module(_MODULES[name]), name)
