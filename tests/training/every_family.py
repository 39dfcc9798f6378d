"""Traces each network family's train step in each way to run it.

A process of its own, because the number of devices is fixed when JAX starts.
`test_every_family.py` looks at the object that it prints.
"""

import json
import os
import sys

os.environ["JAX_NUM_CPU_DEVICES"] = "4"

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import jaxprs_in_params

from scm_jax import networks
from scm_jax.defaults import get_defaults
from scm_jax.planning import arithmetic, memory
from scm_jax.training import program, resolve, sharding

BATCH = 8
POLICIES = ("none", "dots", "full")

_LEVELS = {"channel_mult": (1,), "num_blocks": 1, "attn_resolutions": ()}
# Fields that make a network of each family small.
SMALL = {"unet": _LEVELS, "ddpmpp": _LEVELS, "dit": {"depth": 2}}


def make_config(family, fsdp=1, run="scd", **fields):
  """A small run of a network of the family, a distillation by default."""
  config = get_defaults(run, family)
  config.batch_size = BATCH
  config.data.update(size=8, channels=1, num_classes=3)
  config.network.update(SMALL[family], channels=8, channels_per_head=8)
  config.mesh.update(data=1, fsdp=fsdp)
  config.sharding.min_size = 64
  config.optimizer.rampup_images = 0
  config.update_from_flattened_dict(fields)
  return config


def make_program(config):
  mesh = sharding.make_mesh(config, jax.devices()[: config.mesh.fsdp])
  return program.make(resolve.resolve(config), mesh)


def types(teacher):
  """The types of the teacher's arrays of two and more dimensions."""
  wide = [leaf for leaf in jax.tree.leaves(teacher) if leaf.ndim > 1]
  return sorted({leaf.dtype.name for leaf in wide})


def memories(state):
  """The memories in which a state's arrays lie, by field; not scalars."""
  found = {}
  for field in ("params", "opt_state", "ema"):
    leaves = [x for x in jax.tree.leaves(getattr(state, field)) if x.ndim]
    kinds = {leaf.sharding.memory_kind or "device" for leaf in leaves}
    found[field] = sorted(kinds)
  return found


def residuals(family, params):
  """Bytes kept for the backward pass of one image, by remat policy."""
  found = {}
  for policy in POLICIES:
    config = make_config(family, **{"network.remat": policy})
    found[policy] = memory.residuals(resolve.resolve(config), params)
  return found


def gathered_at_once(made):
  """The share of gathered elements gathered before anything is computed."""
  jaxpr = made.step.trace(*made.arguments).jaxpr
  early, late, begun = 0, 0, False
  for equation in equations(jaxpr.jaxpr):
    name = equation.primitive.name
    begun |= name in ("conv_general_dilated", "dot_general")
    if name.startswith("all_gather"):
      size = sum(out.aval.size for out in equation.outvars)
      early, late = early + size * (not begun), late + size * begun
  return early / (early + late)


def equations(jaxpr):
  """All equations, in order, those of functions where these are called."""
  for equation in jaxpr.eqns:
    inner = list(jaxprs_in_params(equation.params))
    if not inner:
      yield equation
    for function in inner:
      yield from equations(function)


def traffic(family):
  """Bytes that a step gathers and scatters, as planned and as traced.

  A teacher's, which share nothing, in a type that is not that of its weights.
  """
  fields = {"run": "teacher", "network.dtype": "bfloat16"}
  config = make_config(family, fsdp=4, **fields)
  mesh = sharding.abstract_mesh(1, 4)
  arguments = arithmetic.arguments(
    resolve.resolve(config), mesh, arithmetic.trace(resolve.resolve(config))
  )
  found = arithmetic.minimum(resolve.resolve(config), arguments, domain=4)
  planned = {traffic.kind: traffic.bytes for traffic in found}
  made = make_program(config)
  traced = {"all-gather": 0.0, "reduce-scatter": 0.0}
  for equation in equations(made.step.trace(*made.arguments).jaxpr.jaxpr):
    name = equation.primitive.name
    if name.startswith("all_gather"):
      whole, kind = equation.outvars, "all-gather"
    elif name == "reduce_scatter":
      whole, kind = equation.invars, "reduce-scatter"
    else:
      continue
    # Three of four parts are sent to each device, or by it.
    traced[kind] += (
      3 / 4 * sum(x.aval.size * x.aval.dtype.itemsize for x in whole)
    )
  return {kind: [planned[kind], traced[kind]] for kind in traced}


def step(made):
  """The state after one step from fixed weights, none zero, and metrics."""
  rng = np.random.default_rng(0)

  def draw(leaf):
    scale = 0.3 if jnp.issubdtype(leaf.dtype, jnp.floating) else 0
    array = (scale * rng.normal(size=leaf.shape)).astype(leaf.dtype)
    return jax.device_put(array, leaf.sharding)

  def zeros(leaf):
    return jax.device_put(np.zeros(leaf.shape, leaf.dtype), leaf.sharding)

  params, teacher = jax.tree.map(draw, (made.state.params, made.teacher))
  state = jax.tree.map(zeros, made.state).replace(params=params)
  images = rng.integers(0, 256, (BATCH, 8, 8, 1)).astype(np.uint8)
  labels = np.arange(BATCH, dtype=np.int32) % 3
  place = lambda array, like: jax.device_put(array, like.sharding)
  batch = jax.tree.map(place, {"image": images, "label": labels}, made.batch)
  return made.step(state, teacher, batch, zeros(made.seed))


def loss(made):
  """The loss of that step."""
  return float(step(made)[1]["loss"])


def main():
  result = {}
  for family in networks.FAMILIES:
    alone, sharded = (make_program(make_config(family, n)) for n in (1, 4))
    apart = {"teacher_dtype": "bfloat16", "offload": ("averages", "moments")}
    lean = make_program(make_config(family, **apart))
    result[family] = {
      "teacher_types": types(lean.teacher),
      "offloaded": memories(lean.state),
      "residuals": residuals(family, alone.state.params),
      "gathered_at_once": gathered_at_once(sharded),
      "traffic": traffic(family),
      "loss": [loss(alone), loss(sharded)],
    }
  print(json.dumps(result))


if __name__ == "__main__":
  sys.exit(main())
