"""The train state and the one function that is jitted: the train step."""

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.struct
import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from jax.sharding import Mesh

from scm_jax import compilation, networks
from scm_jax.defaults import Run
from scm_jax.networks import Network
from scm_jax.training import accumulation, offload, optimizer, sharding
from scm_jax.training.ema import averaging
from scm_jax.training.objective import Objective, scales


@flax.struct.dataclass
class Extra:
  """What is kept of another network that the objective trains.

  Attributes:
    params: its parameters.
    opt_state: the state of its own optimiser.
  """

  params: Any
  opt_state: Any


@flax.struct.dataclass
class TrainState:
  """All that changes in training. Random keys are functions of the step.

  Attributes:
    step: updates done.
    params: parameters of the network and its weighting head.
    opt_state: the optimiser's state.
    ema: EMAs of `params` by name (see `averaging.name`).
    extra: the other networks that the objective trains, by name.
  """

  step: Array
  params: Any
  opt_state: Any
  ema: dict[str, Any]
  extra: dict[str, Extra] = dataclasses.field(default_factory=dict)

  @property
  def trained(self) -> dict[str, Any]:
    """All that gradients are taken of: `params`, and extra ones by name."""
    return self.params | {name: e.params for name, e in self.extra.items()}


def seed_of(config: Run) -> np.uint32:
  """Returns the seed as an argument of programs, which all seeds share."""
  return np.uint32(config.seed & 0xFFFFFFFF)


def init_state(
  config: Run, start: Any = None, seed: Array | np.uint32 | None = None
) -> TrainState:
  """Returns the state before the first step.

  Args:
    config: the run's config.
    start: parameters to begin from, in the form of `TrainState.trained`; None
      draws them from the seed. Those that the networks have and `start` lacks
      (a guidance input, say) are drawn.
    seed: the seed, as `seed_of` gives it; None is the config's.
  """
  seed = seed_of(config) if seed is None else seed
  key, start, extra = jax.random.key(seed), dict(start or {}), {}
  for number, (name, other) in enumerate(extra_networks(config).items(), 1):
    drawn = other.init(jax.random.fold_in(key, number))
    params = _begin(other, drawn, start.pop(name, {}))
    rule = optimizer.build(extra_config(config, name))
    extra[name] = Extra(params, rule.init(params))
  network = networks.build(config.network)
  params = _begin(network, network.init(key), start)
  return TrainState(
    step=jnp.int32(0),
    params=params,
    opt_state=optimizer.build(config).init(params),
    ema=averaging.init(params, config.ema),
    extra=extra,
  )


def _begin(network: Network, drawn: Any, start: Any) -> Any:
  """Returns a network's first parameters, on its constraint.

  They are those that are drawn, but for the leaves that `start` has of them.
  """
  flat = flax.traverse_util.flatten_dict(dict(drawn))
  given = flax.traverse_util.flatten_dict(start)
  merged = {path: given.get(path, leaf) for path, leaf in flat.items()}
  return network.constraint.apply(flax.traverse_util.unflatten_dict(merged))


def extra_networks(config: Run) -> dict[str, Network]:
  """Builds the other networks that the run's objective trains, by name."""
  return {
    name: networks.build(extra_config(config, name).network)
    for name in config.spec.extra
  }


def extra_config(config: Run, name: str) -> Run:
  """Returns the run's config with an extra network and its optimiser in it."""
  extra = config.spec.extra[name]
  changes = extra.optimizer(config.objective)
  return dataclasses.replace(
    config,
    network=extra.network(config.network),
    optimizer=dataclasses.replace(config.optimizer, **changes),
  )


def make_train_step(
  config: Run, objective: Objective, mesh: Mesh, state: Any, teacher: Any
) -> jax.stages.Wrapped:
  """Makes the jitted `train_step(state, teacher, batch, seed)`.

  It returns the next state and the metrics, and donates the state. `batch`
  holds `image` and `label`; its randomness is a function of the seed and the
  step alone.

  Args:
    config: the run's config.
    objective: the objective, whose networks take shards.
    mesh: the mesh of the devices.
    state: shapes, types and shardings of the state.
    teacher: shapes, types and shardings of the teacher's parameters, or None.
  """
  rest = state
  update = make_update(config, rest.opt_state)
  update_extra = {
    name: make_update(extra_config(config, name), extra.opt_state)
    for name, extra in rest.extra.items()
  }
  specs, where = sharding.specs, sharding.formats
  parts = sharding.microbatches(config, mesh.size)
  options = accumulation.Options(parts, scales(config), config.isolate)
  gradient = accumulation.make_gradient(
    objective, mesh, specs(state.trained), specs(teacher), options
  )

  def train_step(state, teacher_params, batch, seed):
    key = jax.random.fold_in(jax.random.key(seed), state.step)
    draws = objective.draw(batch, key)
    grads, metrics = gradient(state.trained, teacher_params, draws, state.step)
    grads, bad = zero_nonfinite(grads)
    extra = {}
    for name, old in state.extra.items():
      change = update_extra[name]
      params, moments, norm = change(grads.pop(name), old.opt_state, old.params)
      extra[name] = Extra(params, moments)
      metrics[f"gradient_norm/{name}"] = norm
    params, opt_state, norm = update(grads, state.opt_state, state.params)
    step = state.step + 1
    metrics = metrics | {
      "gradient_norm": norm,
      "nonfinite_gradients": bad,
      "learning_rate": optimizer.learning_rate(config, state.step),
    }
    averages = offload.fetch(state.ema, rest.ema)
    averages = averaging.update(
      averages, params, averaging.update_weights(config, step)
    )
    return TrainState(step, params, opt_state, averages, extra), metrics

  batch, whole = sharding.batch_sharding(mesh), sharding.replicated(mesh)
  return jax.jit(
    train_step,
    donate_argnums=0,
    in_shardings=(where(state), where(teacher), batch, whole),
    out_shardings=(where(state), whole),
    compiler_options=compilation.options(
      mesh.devices.flat[0].platform, storing=True
    ),
  )


# update(gradient, opt_state, params) -> (params, opt_state, gradient's norm)
Update = Callable[[Any, Any, Any], tuple[Any, Any, Array]]


def make_update(config: Run, rest: Any) -> Update:
  """Returns the update of the config's network by its optimiser.

  `rest` is shapes, types and shardings of the optimiser's state between steps.
  """
  transformation = optimizer.build(config)
  constraint = networks.build(config.network).constraint

  def update(grads, opt_state, params):
    # The norm is of what the optimiser sees: tangent to the constraint.
    grads = constraint.project(grads, params)
    moments = offload.fetch(opt_state, rest)
    updates, opt_state = transformation.update(grads, moments, params)
    params = constraint.apply(optax.apply_updates(params, updates))
    return params, opt_state, optax.tree.norm(grads)

  return update


def make_check(
  config: Run, objective: Objective, mesh: Mesh, state: Any, teacher: Any
) -> jax.stages.Wrapped | None:
  """Makes the jitted `check(state, teacher, batch, seed) -> sums`, or None.

  It compares tangents with float32's (see `objectives.precision`), of about
  `config.objective.check_samples` samples of the batch, one a device at least.
  Where the objective takes no tangents it is None. The arguments are those of
  `make_train_step`.
  """
  if objective.check is None:
    return None
  count = max(1, config.objective.check_samples // mesh.size)

  def on_device(params, teacher_params, draws, step):
    few = jax.tree.map(lambda x: x[:count], draws)
    sums = objective.check(params, teacher_params, few, step)
    return jax.lax.psum(sums, mesh.axis_names)

  where = sharding.specs((state.params, teacher))
  checked = jax.shard_map(
    on_device,
    mesh=mesh,
    in_specs=(*where, sharding.BATCH, sharding.REPLICATED),
    out_specs=sharding.REPLICATED,
    check_vma=False,
  )

  def check(state, teacher_params, batch, seed):
    key = jax.random.fold_in(jax.random.key(seed), state.step)
    draws = objective.draw(batch, key)
    return checked(state.params, teacher_params, draws, state.step)

  return jax.jit(check)


def zero_nonfinite(grads: Any) -> tuple[Any, Array]:
  """Zeroes the non-finite entries of gradients (as EDM2), and counts them."""
  leaves = jax.tree.leaves(grads)
  bad = jnp.int32(0)
  for g in leaves:
    bad += jnp.sum(~jnp.isfinite(g), dtype=jnp.int32)
  clean = lambda g: jnp.where(jnp.isfinite(g), g, 0.0)
  return jax.tree.map(clean, grads), bad
