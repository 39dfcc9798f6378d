"""Surfaces on which the optimiser keeps the weights of a network."""

from collections.abc import Callable
from typing import Any, NamedTuple


class Constraint(NamedTuple):
  """A surface in the space of a network's parameters.

  Attributes:
    apply: puts parameters on the surface: `apply(params, eps=0.0) -> params`.
      It is applied after each update, and to every average of parameters
      before it is used.
    project: removes from a gradient what points off the surface:
      `project(gradient, params) -> gradient`.
  """

  apply: Callable[..., Any]
  project: Callable[[Any, Any], Any]


def _unchanged(tree: Any, *_: Any, **__: Any) -> Any:
  """Returns its first argument."""
  return tree


FREE = Constraint(_unchanged, _unchanged)  # no constraint at all
