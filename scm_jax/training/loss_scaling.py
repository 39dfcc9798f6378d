"""Gradients through a float16 network, scaled so that they keep their digits.

Backward, what leaves the loss is small: for a sample of `D` numbers about
`D^-1/2`, and `D^-3/2` while the weighting is untrained. float16 has no normal
numbers below 6e-5. So the gradient that enters the network is multiplied by a
power of two, and the parameters' gradient, in float32, divided by it.

The factor is found anew in each step from the very gradient that enters the
network, which costs no pass through it. Hence it has no state, never has to
recover from a step that overflowed, and is the same on every device.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from scm_jax.networks import Network

PROBE = "probe"  # zeros that are added to the output, to see its gradient
# Where the factor brings the largest entry, to within a factor of two. Sums
# over the pixels of a batch then stay below float16's 65,504.
LARGEST = 0.5


def probed(network: Network) -> Network:
  """The network, whose output has `params["probe"]` added if there is one."""

  def F(params, x, t, cond, **kwargs):
    output = network.F(params, x, t, cond, **kwargs)
    return output + params[PROBE] if PROBE in params else output

  return network._replace(F=F)


def gradient(
  loss: Callable[[Any], tuple[Array, Any]],
  params: Any,
  output: jax.ShapeDtypeStruct,
  axes: tuple[str, ...],
) -> tuple[Any, Any]:
  """`jax.grad(loss, has_aux=True)(params)`, scaled on its way back.

  Args:
    loss: of parameters, among them `probe`; it asks a `probed` network.
    params: without `probe`.
    output: shape and type of the network's output.
    axes: of the mesh; their devices agree on the factor.
  """

  def of(params, probe):
    return loss({**params, PROBE: probe})

  probe = jnp.zeros(output.shape, output.dtype)
  value, pullback, aux = jax.vjp(of, params, probe, has_aux=True)
  # The compiler drops the rest of this pass: the probe's part needs none of it.
  _, entering = pullback(jnp.ones_like(value))
  size = jnp.max(jnp.where(jnp.isfinite(entering), jnp.abs(entering), 0.0))
  scale = _power_of_two(LARGEST / lax.pmax(size, axes))
  grads, _ = pullback(scale.astype(value.dtype))
  return jax.tree.map(lambda g: g / scale.astype(g.dtype), grads), aux


def _power_of_two(x: Array) -> Array:
  """The power of two next below `x`; 1 for what is not a positive number."""
  good = jnp.isfinite(x) & (x > 0)
  exponent = jnp.floor(jnp.log2(jnp.where(good, x, 1.0)))
  return jnp.exp2(jnp.clip(exponent, -60, 60))
