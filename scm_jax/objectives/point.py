"""A batch on its trajectories: what every objective is evaluated at."""

from typing import NamedTuple

from jax import Array


class Point(NamedTuple):
  """A batch on its trajectories.

  Attributes:
    x0: data `[B, ...]`.
    z: noise from `N(0, sigma_d^2 I)`, like `x0`.
    t: radians `[B]`; snapped to the grid when the derivative is `discrete`.
    cond: the network's condition, arrays by name; a network that takes none
      may be given any.
    rngs: the network's random streams, or None; value and tangent share their
      masks.
    drawn: whatever else the objective draws for each sample (`Spec.draw`).
  """

  x0: Array
  z: Array
  t: Array
  cond: dict[str, Array] = {}
  rngs: dict[str, Array] | None = None
  drawn: dict[str, Array] = {}
