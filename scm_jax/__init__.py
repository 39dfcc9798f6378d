"""Continuous-time consistency models (sCM) in JAX.

    images = scm_jax.load("exports/digits").sample([3, 7], steps=2)

Import the rooms by name: `scm_jax.trigflow`, `scm_jax.networks`,
`scm_jax.objectives`, `scm_jax.samplers` and `scm_jax.loading` need jax, flax
and numpy alone; everything above them needs the extra `scm-jax[train]`.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
  from scm_jax.loading import load

__all__ = ["load"]


def __getattr__(name: str) -> Any:
  """`load`, without importing jax for those who only want `--help`."""
  if name != "load":
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
  from scm_jax.loading import load

  return load
