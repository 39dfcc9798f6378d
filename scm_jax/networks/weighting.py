"""The adaptive weighting head `w_phi(t)` (Equation 8; EDM2, Appendix B.2).

A scalar function of the time, trained beside the network and used by nothing
after training. EDM2 makes it one magnitude-preserving layer on 128 Fourier
features; its output is then bounded by `sqrt(128)`, but sCM's optimum is
`ln D` plus a little when the tangent is normalised by its L2 norm, which for
ImageNet comes within a whisker of that bound. The `trigflow` form is therefore
a free linear layer on positional features, which starts at zero.
"""

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from scm_jax.networks import layers

FEATURES = 128


class Weighting(nn.Module):
  """`w_phi(t)`: `[B]` to `[B]`; minus the log-variance of EDM2's notation."""

  form: str = "trigflow"

  @nn.compact
  def __call__(self, t: Array) -> Array:
    t = t.astype(jnp.promote_types(t.dtype, jnp.float32))
    if self.form == "edm2":
      features = layers.FourierFeatures(FEATURES, name="fourier")(t)
      return -layers.Linear(1, name="linear")(features)[:, 0]
    features = layers.positional_features(t, FEATURES)
    zeros = nn.initializers.zeros
    return nn.Dense(1, kernel_init=zeros, dtype=t.dtype, name="linear")(
      features
    )[:, 0]
