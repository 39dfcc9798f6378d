"""Loss scaling: gradients through a float16 network that keep their digits.

The gradient of the loss with respect to the network's output is small: for a
sample of `D` numbers about `D^-1/2`, and `D^-3/2` while the weighting is
untrained. The smallest normal number of float16 is 6e-5. So this gradient is
multiplied by a power of two before it goes back through the network, and the
parameters' gradient, in float32, is divided by it.

The factor is computed anew in each step, from that very gradient, which costs
no pass through the network. So it has no state, never has to recover from a
step that overflowed, and is the same on every device.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from scm_jax.networks import Network

PROBE = "probe"  # zeros added to the output, whose gradient is the output's
# The largest entry after scaling, to within a factor of two. Sums over the
# pixels of a batch then stay below 65,504, the largest number of float16.
LARGEST = 0.5


def probed(network: Network) -> Network:
  """Returns the network that adds `params["probe"]`, if any, to its output."""

  def F(params, x, t, cond, **kwargs):
    output = network.F(params, x, t, cond, **kwargs)
    return output + params[PROBE] if PROBE in params else output

  return network._replace(F=F)


def gradient(
  loss: Callable[[Any], tuple[Array, Any]],
  params: Any,
  output: jax.ShapeDtypeStruct,
  axes: tuple[str, ...],
  extra: tuple[str, ...] = (),
) -> tuple[Any, Any]:
  """Returns `jax.grad(loss, has_aux=True)(params)`, computed with scaling.

  Args:
    loss: a function of the parameters and `probe` that calls `probed` networks
      and returns the loss and auxiliary outputs.
    params: the parameters, without `probe`.
    output: the shape and type of the networks' outputs.
    axes: the axes of the mesh over which the devices agree on the factor.
    extra: the names of the other networks, whose parameters are `params[name]`;
      one factor serves them all.
  """

  def of(params, probe, others):
    others = {k: {**params[k], PROBE: zeros} for k, zeros in others.items()}
    return loss({**params, PROBE: probe, **others})

  probe = jnp.zeros(output.shape, output.dtype)
  others = dict.fromkeys(extra, probe)
  value, pullback, aux = jax.vjp(of, params, probe, others, has_aux=True)
  # The compiler drops the pass through the network: no probe needs it.
  entering = jnp.stack(jax.tree.leaves(pullback(jnp.ones_like(value))[1:]))
  size = jnp.max(jnp.where(jnp.isfinite(entering), jnp.abs(entering), 0.0))
  scale = _power_of_two(LARGEST / lax.pmax(size, axes))
  grads = pullback(scale.astype(value.dtype))[0]
  return jax.tree.map(lambda g: g / scale.astype(g.dtype), grads), aux


def _power_of_two(x: Array) -> Array:
  """Returns the largest power of two up to `x`; 1 if `x` is not positive."""
  good = jnp.isfinite(x) & (x > 0)
  exponent = jnp.floor(jnp.log2(jnp.where(good, x, 1.0)))
  return jnp.exp2(jnp.clip(exponent, -60, 60))
