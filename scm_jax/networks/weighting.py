"""The adaptive weighting head `w_phi(t)` (Equation 8; EDM2, Appendix B.2).

A scalar function of the time, trained beside the network and used by nothing
after training. Nothing differentiates it by the time, so that its features may
be of any frequency. There are three heads:

- `fourier`, for teachers: random Fourier features of `ln(sigma) / 4`, as EDM2
  has, since a diffusion loss changes with `ln(sigma)`; then a free linear
  layer.
- `positional`, for students, whose best `w` is nearly constant: positional
  features of `t`, most of which are nearly constant too, so that Adam moves
  their sum fast. The free linear layer follows here as well.
- `edm2`, as published: one magnitude-preserving layer on the Fourier features.
  It is bounded by `sqrt(128)`, within a whisker of what a student needs on
  ImageNet, `ln D` and a little more; the free layers are not, and start at
  zero.
"""

import functools

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from scm_jax.networks import layers

FEATURES = 128


class Weighting(nn.Module):
  """The log-weight `w_phi`, `[B]` to `[B]`: EDM2's log-variance, negated.

  It is given `t`, or for Fourier features `ln(sigma) / 4`; and the time `s` at
  which the jump ends, where there is one.
  """

  head: str = "positional"

  @nn.compact
  def __call__(self, t: Array, s: Array | None = None) -> Array:
    t = t.astype(jnp.promote_types(t.dtype, jnp.float32))
    if self.head == "positional":
      features = layers.positional_features(t, FEATURES)
    else:
      features = layers.FourierFeatures(FEATURES, name="fourier")(t)
    if self.head == "edm2":
      return -layers.Linear(1, name="linear")(features)[:, 0]
    zeros = nn.initializers.zeros
    linear = functools.partial(nn.Dense, 1, kernel_init=zeros, dtype=t.dtype)
    w = linear(name="linear")(features)
    if s is not None:
      ends = layers.positional_features(s, FEATURES)
      w += linear(name="emb_target", use_bias=False)(ends)
    return w[:, 0]
