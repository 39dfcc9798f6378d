"""Blocks that forget their activations and compute them again backward.

A policy says what a block keeps between its forward and its backward pass;
parameters, their names and all values stay as they are. In sCM's step the
block's tangent is never differentiated, so nothing of it is kept or computed
again.
"""

from typing import Any

import flax.linen as nn

PRODUCTS = ("dot_general", "conv_general_dilated")


def _products_saveable(primitive: Any, *_: Any, **__: Any) -> bool:
  """Keeps what convolutions and matrix products give."""
  return primitive.name in PRODUCTS


# `none` keeps all that the backward pass reads; `full` nothing inside a block;
# `dots` the results of convolutions and matrix products, so that only cheap
# pointwise operations are repeated.
POLICIES = {"none": None, "full": None, "dots": _products_saveable}


def rematerialized(block: type[nn.Module], policy: str) -> type[nn.Module]:
  """Returns the class of a block under a policy.

  Args:
    block: the class, called with `(x, emb, train)`, the last a Python boolean.
    policy: a name in `POLICIES`.
  """
  if policy == "none":
    return block
  return nn.remat(block, policy=POLICIES[policy], static_argnums=(3,))
