"""The budget of a training, in evaluations of its networks.

An evaluation is one pass over the weights for one sample. A derivative along a
direction costs one more, and the pass back through a network that is trained
two, as their FLOPs do. Evaluations of a teacher and of other networks count
alike, whatever their size.
"""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp

from scm_jax import networks
from scm_jax.defaults import Run
from scm_jax.networks import Network
from scm_jax.training import objective, program, sharding
from scm_jax.training.step import extra_networks


def total(config: Run, step: int) -> int:
  """Returns the evaluations of a run's first steps, for all samples together.

  Those of the teacher's own training, and of a run that this one starts from,
  are not among them.
  """
  return per_sample(config) * config.batch_size * step


@functools.cache
def per_sample(config: Run) -> int:
  """Returns the evaluations that a step takes for each of its samples.

  The gradient of the loss is traced, for no particular data, with networks that
  are one product of matrices each, and the products are counted: one in a
  forward pass, one in its derivative, and two in a backward pass.
  """
  return _products(config, _gradient)


def _gradient(loss: Callable) -> Callable:
  return jax.grad(loss, has_aux=True)


@functools.cache
def apart(config: Run) -> int:
  """Returns how many of a sample's evaluations are in the tangent's type.

  They are those of the tangent's own pass and of the teacher; 0 if the tangent
  has no pass of its own.
  """
  wanted = config.objective.tangent_pass

  def computes(given: Any) -> tuple[str, str]:
    return jnp.dtype(given.dtype).name, given.precision

  if wanted in (None, computes(config.network)):
    return 0

  def place(given: objective.Networks) -> objective.Networks:
    is_apart = lambda network: computes(network.config) == wanted
    return given.map(lambda n: _product(n) if is_apart(n) else _none(n))

  return _products(config, _gradient, place)


@functools.cache
def backward(config: Run) -> int:
  """Returns how many of a sample's evaluations a backward pass goes through.

  Their activations are kept for it.
  """
  return (per_sample(config) - _products(config, lambda loss: loss)) // 2


def _products(
  config: Run,
  transform: Callable[[Any], Any],
  place: Callable[[objective.Networks], objective.Networks] = (
    lambda given: given.map(_product)
  ),
) -> int:
  """Returns the products for each sample of the transformed loss.

  `place` replaces the networks by others, of one product each or of none.
  """
  student, extra = networks.build(config.network), extra_networks(config)
  teacher = program.teacher_network(config) if config.asks_teacher else None
  weak = program.guide_network(config)
  base = objective.Networks(student, teacher, weak, extra)
  goal = objective.build(config, base, place)
  mesh: Any = sharding.abstract_mesh(1, 1)
  batch = program.abstract_batch(config, mesh)
  draws = jax.eval_shape(goal.draw, batch, jax.random.key(0))
  channels = config.network.in_channels
  own = {"bias": jnp.zeros(()), "matrix": jnp.zeros((channels, channels))}
  taught = {**own, "guide": own}

  def loss(params, draws):
    return goal.loss(params, taught, draws, jnp.int32(0))

  traced = jax.make_jaxpr(transform(loss))
  trained = own | dict.fromkeys(extra, own)
  return _count(traced(trained, draws), draws["x0"].size)


def _product(network: Network) -> Network:
  """Returns the network of one product in place of another."""

  def F(params, x, t, cond, **kwargs):
    del t, cond, kwargs
    return (x + params["bias"]) @ params["matrix"]

  def w(params, t, s=None):
    del params, s
    return jnp.zeros_like(t)

  return network._replace(F=F, w=w)


def _none(network: Network) -> Network:
  """Returns the network of no product in place of another."""
  F = lambda params, x, t, cond, **kwargs: x + params["bias"]
  return _product(network)._replace(F=F)


def _count(jaxpr: Any, size: int) -> int:
  """Returns the number of products in a program, loops included.

  Args:
    jaxpr: the program.
    size: the numbers in a batch of samples; a product with more counts as that
      of several batches.
  """
  found = 0
  for equation, times in equations(jaxpr):
    # Samples have more axes than what metrics are summed from by products.
    given = [x.aval for x in equation.invars]
    product = equation.primitive.name == "dot_general"
    if product and max(x.ndim for x in given) > 2:
      found += times * (max(x.size for x in given) // size)
  return found


def equations(jaxpr: Any, times: int = 1) -> Iterator[tuple[Any, int]]:
  """Yields a program's equations and how often each runs, those in loops too.

  The program itself runs `times` times.
  """
  is_program = lambda value: hasattr(value, "eqns")
  for equation in jaxpr.eqns:
    yield equation, times
    repeats = times * equation.params.get("length", 1)  # of a scan
    inner = jax.tree.leaves(equation.params, is_leaf=is_program)
    for each in filter(is_program, inner):
      yield from equations(each, repeats)
