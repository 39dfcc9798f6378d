"""Magnitude-preserving operations and the sphere that weights live on.

From EDM2 (arXiv 2312.02696, Section 2 and Appendix B). Every filter of a
magnitude-preserving layer has unit root-mean-square, so a layer keeps the
magnitude of what passes through it. EDM2 enforces this inside the forward pass;
here it is a constraint of the *optimiser*: gradients are projected onto the
tangent space of the sphere (`project_gradients`), and weights are put back on
it after each update (`normalize_weights`). The forward pass is then a plain
linear map of the weights, which keeps `jax.jvp` and rematerialisation simple
and costs nothing.

In a family of networks with this constraint (`SPHERE`), parameters under the
key `WEIGHT` are on the sphere; all others are free.
"""

import jax
import jax.numpy as jnp
from jax import Array

from scm_jax.networks.family import Constraint

WEIGHT = "weight"
EPS = 1e-4


def normalize(x: Array, axis: int | tuple[int, ...], eps: float = EPS) -> Array:
  """Divides by the root-mean-square over `axis` (EDM2, Equation 47).

  Statistics are taken in at least float32 whatever the type of `x`.
  """
  x32 = x.astype(jnp.promote_types(x.dtype, jnp.float32))
  mean_square = jnp.mean(jnp.square(x32), axis=axis, keepdims=True)
  # The root of an exact zero has no derivative; a pixel whose channels are all
  # zero must give a zero tangent, not NaN. The least normal number is too small
  # to change another sum whose root `eps` does not hide, and compilers make one
  # kernel of a chain that has no branch.
  rms = (mean_square + jnp.finfo(x32.dtype).tiny) ** 0.5
  return (x32 / (eps + rms)).astype(x.dtype)


def pixel_norm(x: Array) -> Array:
  """Applies PGGAN's pixel normalisation over channels, `pnorm` in the paper."""
  return normalize(x, axis=-1)


def silu(x: Array) -> Array:
  """Applies the magnitude-preserving SiLU (EDM2, Equation 81)."""
  return jax.nn.silu(x) / 0.596


def add(a: Array, b: Array, balance: float = 0.5) -> Array:
  """Sums `(1-w) a + w b`, preserving magnitude (EDM2, Equation 88)."""
  scale = ((1 - balance) ** 2 + balance**2) ** -0.5
  return a * ((1 - balance) * scale) + b * (balance * scale)


def concatenate(a: Array, b: Array, balance: float = 0.5) -> Array:
  """Concatenates channels, preserving magnitude (EDM2, Equation 103)."""
  n_a, n_b = a.shape[-1], b.shape[-1]
  scale = ((n_a + n_b) / ((1 - balance) ** 2 + balance**2)) ** 0.5
  a = a * (scale / n_a**0.5 * (1 - balance))
  b = b * (scale / n_b**0.5 * balance)
  return jnp.concatenate([a, b], axis=-1)


def _on_sphere(path) -> bool:
  """Returns whether the parameter at a path is on the sphere."""
  return getattr(path[-1], "key", None) == WEIGHT


def normalize_weights(params, eps: float = 0.0):
  """Puts every magnitude-preserving filter back onto its sphere.

  Filters are the last axis of a weight: `[..., in, out]`. Applied after each
  update of the parameters, and to every average of them before it is used
  (an average of points on a sphere lies inside it).

  Args:
    params: any tree of parameters.
    eps: added to a filter's root-mean-square; EDM2 adds `EPS` where it uses
      weights, which its networks reproduce to rounding only with it.
  """

  def normalized(path, w):
    if not _on_sphere(path):
      return w
    return normalize(w, axis=tuple(range(w.ndim - 1)), eps=eps)

  return jax.tree_util.tree_map_with_path(normalized, params)


def project_gradients(grads, params):
  """Removes from each filter's gradient the part along the filter.

  This is what differentiating through a weight normalisation does (EDM2,
  Appendix B.4), at the sphere itself.
  """

  def projected(path, g, w):
    if not _on_sphere(path):
      return g
    axes = tuple(range(w.ndim - 1))
    along = jnp.sum(g * w, axes, keepdims=True)
    return g - w * (along / jnp.sum(w * w, axes, keepdims=True))

  return jax.tree_util.tree_map_with_path(projected, grads, params)


SPHERE = Constraint(normalize_weights, project_gradients)
