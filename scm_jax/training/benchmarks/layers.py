"""Times every distinct convolution and product of a network, one by one.

A compiler now and then chooses a bad kernel for one shape and direction, which
a step's time hides. Each layer is timed alone, forward, as a value with its
tangent, and as the gradients by its input and by its weight, at the size of a
microbatch. Where PyTorch sees a GPU, the same layer is timed there.
"""

import collections
import functools
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from scm_jax import compilation, networks
from scm_jax.defaults import Run
from scm_jax.training import evaluations, sharding
from scm_jax.training.benchmarks import pytorch_layers, sampling, train_step

SECONDS = 0.02  # that a measurement of one layer lasts at least
_NAMES = {
  "conv_general_dilated": "convolution",
  "dot_general": "product",
}


class Layer(NamedTuple):
  """A convolution or product, as the network's trace has it.

  Attributes:
    primitive: JAX's primitive.
    arrays: the shapes and types of its two operands.
    params: the primitive's parameters, as sorted pairs.
  """

  primitive: Any
  arrays: tuple[jax.ShapeDtypeStruct, ...]
  params: tuple[tuple[str, Any], ...]

  def __call__(self, x: jax.Array, w: jax.Array) -> jax.Array:
    """Computes the layer."""
    return self.primitive.bind(x, w, **dict(self.params))

  def flops(self) -> float:
    """Returns the FLOPs of one call, as XLA counts them on the CPU."""
    with jax.default_device(train_step.counter()):
      lowered = jax.jit(lambda x, w: self(x, w)).lower(*self.arrays)
    return train_step.flops(lowered)

  def directions(self) -> dict[str, Callable[..., Any]]:
    """Returns what is timed, as functions of input, tangent, weight, output."""
    by = lambda f, array, out: jax.linear_transpose(f, array)(out)
    return {
      "forward": lambda x, v, w, y: self(x, w),
      "tangent": lambda x, v, w, y: jax.jvp(lambda x: self(x, w), (x,), (v,)),
      "input": lambda x, v, w, y: by(lambda x: self(x, w), x, y),
      "weight": lambda x, v, w, y: by(lambda w: self(x, w), w, y),
    }


def measure(
  run: Run, repeats: int, rates: sampling.Rates | None
) -> dict[str, Any]:
  """Returns the object that `bench --layers --json` prints.

  `share` is the part of a step that a layer's passes would take one after
  another; layers of which it is largest are first. Each direction is timed
  `repeats` times, of which the median counts.
  """
  step = float(np.median(train_step.time_step(run, repeats)["ms"]))
  parts = sharding.microbatches(run, jax.device_count())
  rows = [time_layer(run, *item, repeats) for item in of_network(run).items()]
  for row in rows:
    row["share"] = parts * row["step_ms"] / step
  return {
    "device": jax.devices()[0].device_kind,
    "config": train_step.describe(run),
    "step_ms": step,
    "peak_flops_per_second": rates and rates.flops,
    "layers": sorted(rows, key=lambda row: -row["share"]),
  }


def of_network(config: Run) -> dict[Layer, int]:
  """Returns the network's distinct layers, and how many there are of each.

  Those with the most arithmetic together come first. Those in a loop count as
  often as it runs. Their batch is a microbatch on one device; where a sample
  stands for several states, the network takes all of them at once.
  """
  devices = jax.device_count()
  batch = config.batch_size // devices // sharding.microbatches(config, devices)
  batch *= config.spec.path_states(config.objective)
  F = networks.build(config.network).F
  traced = jax.make_jaxpr(F)(*train_step.forward_arguments(config, batch))
  found = collections.Counter()
  for equation, times in evaluations.equations(traced.jaxpr):
    if equation.primitive.name in _NAMES:
      arrays = tuple(
        jax.ShapeDtypeStruct(v.aval.shape, v.aval.dtype)
        for v in equation.invars
      )
      params = tuple(sorted(equation.params.items()))
      found[Layer(equation.primitive, arrays, params)] += times
  most = lambda item: -item[0].flops() * item[1]
  return dict(sorted(found.items(), key=most))


def time_layer(
  run: Run, layer: Layer, count: int, repeats: int
) -> dict[str, Any]:
  """Times one layer, of which the network has `count`, in all directions.

  Returns:
    What it is, its FLOPs, and median times of some repeats in milliseconds:
    `ms` and `pytorch_ms` by direction, and `step_ms` of all its passes in a
    microbatch's step.
  """
  states = run.spec.path_states(run.objective)
  like_x, like_w = layer.arrays
  x, v, w = (
    jax.random.normal(jax.random.key(i), like.shape, like.dtype)
    for i, like in enumerate((like_x, like_x, like_w))
  )
  apply = lambda x, w: layer(x, w)
  shape = jax.eval_shape(apply, x, w)
  y = jnp.ones(shape.shape, shape.dtype)
  flops = layer.flops()
  options = compilation.options(jax.default_backend())
  jit = functools.partial(jax.jit, compiler_options=options)
  ms = {
    name: _median_ms(functools.partial(jit(f), x, v, w, y), repeats)
    for name, f in layer.directions().items()
  }
  return {
    "kind": _NAMES[layer.primitive.name],
    "shapes": [list(a.shape) for a in layer.arrays],
    "dtype": jnp.dtype(layer.arrays[0].dtype).name,
    "count": count,
    "flops": flops,
    "ms": ms,
    "flops_per_second": {
      name: flops * (2 if name == "tangent" else 1) / (1e-3 * value)
      for name, value in ms.items()
    },
    "pytorch_ms": pytorch_layers.measure(layer, repeats),
    "step_ms": count * _in_step(run, ms) / states,
  }


def _in_step(config: Run, ms: dict[str, float]) -> float:
  """Returns the milliseconds that one layer takes in a microbatch's step.

  All networks of the run count as if they were the student's.
  """
  back = evaluations.backward(config)
  forward = evaluations.per_sample(config) - 2 * back
  total = back * (ms["input"] + ms["weight"])
  derivative = getattr(config.objective, "derivative", None)
  if config.spec.tangent and derivative == "jvp":
    # The evaluations count a tangent and its value apart; both have one time.
    total, forward = total + ms["tangent"], forward - 2
  return total + forward * ms["forward"]


def _median_ms(call: Callable[[], Any], repeats: int) -> float:
  """Measures a call, so often at once that the clock's steps do not matter."""
  jax.block_until_ready(call())  # compiles

  def seconds(times: int) -> float:
    start = time.perf_counter()
    results = [call() for _ in range(times)]
    jax.block_until_ready(results)
    return time.perf_counter() - start

  times = max(1, min(100, round(SECONDS / seconds(1))))
  return 1e3 * float(
    np.median([seconds(times) for _ in range(repeats)]) / times
  )
