"""The train step of a config on a mesh, whose devices need not be here.

`train` and `bench` run this program; `plan` compiles it.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from scm_jax import compilation, networks
from scm_jax.defaults import Run
from scm_jax.errors import UserError
from scm_jax.networks import Network, sharded
from scm_jax.training import objective, offload, sharding
from scm_jax.training.step import (
  TrainState,
  extra_networks,
  init_state,
  make_check,
  make_train_step,
  seed_of,
)


class Program(NamedTuple):
  """A train step, and its arguments as shapes, types and shardings.

  Attributes:
    step: the jitted `step(state, teacher, batch, seed) -> (state, metrics)`;
      see `step.make_train_step`.
    state: the train state.
    teacher: the teacher's parameters, where every step evaluates it, else None.
    batch: the global batch.
    seed: the run's seed; see `step.seed_of`.
    check: the jitted `check(state, teacher, batch, seed) -> sums`, or None; see
      `step.make_check`.
  """

  step: jax.stages.Wrapped
  state: TrainState
  teacher: Any
  batch: dict[str, jax.ShapeDtypeStruct]
  seed: jax.ShapeDtypeStruct
  check: jax.stages.Wrapped | None = None

  @property
  def arguments(self) -> tuple[Any, ...]:
    """The arguments of `step`, in order."""
    return self.state, self.teacher, self.batch, self.seed


def make(
  config: Run,
  mesh: Mesh,
  teacher: Network | None = None,
  weak: Network | None = None,
) -> Program:
  """Makes the program of a config.

  Args:
    config: the run's config.
    mesh: a mesh of devices that are here, or of a topology's.
    teacher: the teacher's network, where steps evaluate it; None is the network
      of a teacher that was trained by the same config.
    weak: the network that guides the teacher, if it has one; where the config
      names one, None is a network like the teacher.
  """
  student = networks.build(config.network)
  state = abstract_state(config, mesh)
  teacher_params = None
  extra = extra_networks(config)
  base = objective.Networks(student, extra=extra)
  if config.asks_teacher:
    teacher = teacher or teacher_network(config)
    weak = weak or guide_network(config)
    teacher_params = abstract_teacher(config, mesh, teacher, weak)
    base = objective.Networks(student, teacher, weak, extra)
  given = sharding.specs(teacher_params)
  specs = objective.Networks(
    sharding.specs(state.params),
    given,
    given["guide"] if weak else None,
    {name: sharding.specs(state.extra[name].params) for name in extra},
  )
  scatter = config.sharding.reduce_dtype
  on_shards = functools.partial(sharded.on_shards, reduce_dtype=scatter)
  place = lambda networks: networks.map(on_shards, specs)
  goal = objective.build(config, base, place)
  step = make_train_step(config, goal, mesh, state, teacher_params)
  check = make_check(config, goal, mesh, state, teacher_params)
  batch, whole = abstract_batch(config, mesh), sharding.replicated(mesh)
  seed = jax.ShapeDtypeStruct((), jnp.uint32, sharding=whole)
  return Program(step, state, teacher_params, batch, seed, check)


def abstract_state(config: Run, mesh: Mesh) -> TrainState:
  """Returns shapes, types and shardings of a run's state."""
  state = jax.eval_shape(lambda: init_state(config))
  return offload.placed(config, sharding.placed(config, mesh, state))


def first_state(
  config: Run, placed: TrainState, start: Any = None
) -> TrainState:
  """Draws the state before a run's first step, in the shards of `placed`.

  Args:
    config: the run's config.
    placed: what `abstract_state` returns.
    start: parameters to begin from; see `step.init_state`.
  """
  (device, *_) = placed.step.sharding.device_set
  draw = jax.jit(
    functools.partial(init_state, config),
    out_shardings=sharding.formats(placed),
    compiler_options=compilation.options(device.platform, once=True),
  )
  return draw(start, seed_of(config))


def abstract_teacher(
  config: Run, mesh: Mesh, teacher: Network, weak: Network | None
) -> Any:
  """Returns shapes, types and shardings of the teacher's parameters.

  Those of the network that guides it, `weak`, are under `guide`.
  """
  weights = lambda: cast_teacher(config, init_teacher(teacher, weak))
  return sharding.placed(config, mesh, jax.eval_shape(weights))


def init_teacher(teacher: Network, weak: Network | None) -> dict[str, Any]:
  """Draws the parameters of a teacher, and under `guide` those of its guide."""
  params = dict(teacher.init(jax.random.key(0)))
  return params | ({"guide": weak.init(jax.random.key(0))} if weak else {})


def abstract_batch(config: Run, mesh: Mesh) -> dict[str, jax.ShapeDtypeStruct]:
  """Returns shapes, types and shardings of a batch as the dataset stores it."""
  data, size = config.data, config.batch_size
  latents = data.kind == "latents"
  channels = data.channels * (2 if latents else 1)
  shape = (size, data.size, data.size, channels)
  dtype = jnp.float16 if latents else jnp.uint8
  where = sharding.batch_sharding(mesh)
  return {
    "image": jax.ShapeDtypeStruct(shape, dtype, sharding=where),
    "label": jax.ShapeDtypeStruct((size,), jnp.int32, sharding=where),
  }


def check_batch(config: Run, batch: dict[str, np.ndarray]) -> None:
  """Raises UserError unless a process's batch is as the config says."""
  if not isinstance(batch, Mapping) or not {"image", "label"} <= batch.keys():
    found = type(batch).__name__
    if isinstance(batch, Mapping):
      found = f"{found} of {', '.join(map(str, batch)) or 'nothing'}"
    raise UserError(
      "a batch must be a dict that has `image` and `label` (zeros if there are "
      f"no classes), and is a {found}"
    )
  mesh: Any = sharding.abstract_mesh(1, 1)
  count = config.batch_size // jax.process_count()
  shape = count, *abstract_batch(config, mesh)["image"].shape[1:]
  image, images = batch["image"], config.data.kind == "images"
  kind = np.uint8 if images else np.floating
  # By JAX's types, of which bfloat16 is one.
  if image.shape != shape or not jnp.issubdtype(image.dtype, kind):
    raise UserError(
      f"a batch has an image of {image.dtype} {list(image.shape)}; by "
      "config.data and config.batch_size it must be "
      f"{'uint8' if images else 'of floats'} {list(shape)}"
    )
  classes = config.data.num_classes
  if not classes:
    return
  label = np.asarray(batch["label"])
  if label.shape != (count,) or not np.issubdtype(label.dtype, np.integer):
    raise UserError(
      f"a batch has a label of {label.dtype} {list(label.shape)}; it must be "
      f"whole numbers [{count}]"
    )
  wrong = label[(label < 0) | (label > classes)]  # `classes` is no label
  if wrong.size:
    raise UserError(
      f"a batch has the label {wrong[0]}; by config.data.num_classes labels "
      f"are 0 to {classes - 1}"
    )


def remark_on_scale(config: Run, batch: dict[str, np.ndarray]) -> str | None:
  """Returns a sentence if a batch is not scaled as the network expects it.

  Its mean should be 0, and its deviation `sigma_d`. Only values that are far
  off are remarked on, and none of a few images.
  """
  if len(batch["image"]) < 32:
    return None
  data, codec = config.data, config.codec
  some = jnp.asarray(batch["image"][:256])
  x0 = np.asarray(codec.encode(some, jax.random.key(0)))
  each = isinstance(data.mean, tuple)  # channel has numbers of its own
  values = x0.reshape(-1, x0.shape[-1] if each else 1) / config.sigma_d
  mean, std = values.mean(0), values.std(0)
  if np.all(np.abs(mean) < 1) and np.all((std > 0.4) & (std < 2.5)):
    return None
  found = {"mean": mean * data.std + data.mean, "std": std * data.std}
  shown = {k: ", ".join(f"{x:.3g}" for x in v) for k, v in found.items()}
  what = "latents" if data.kind == "latents" else "images in [-1, 1]"
  mend = "set both to those of your data"
  if config.teacher:  # whose numbers they have to be
    mend = "the data are not those of the teacher, or it was given wrong ones"
  return (
    f"the first batch of {what} has the mean {shown['mean']} and the deviation "
    f"{shown['std']}, far from config.data.mean={data.mean} and config.data."
    f"std={data.std}: the network will not see data of the scale that it is "
    f"made for; {mend}"
  )


def teacher_network(config: Run) -> Network:
  """Builds the network of a teacher that was trained by the same config."""
  return networks.build(dataclasses.replace(config.network, guidance=False))


def guide_network(config: Run) -> Network | None:
  """Builds the network of a guide that is an early snapshot of the teacher.

  It stands for the network that `config.guide` names; None if it names none.
  """
  return teacher_network(config) if config.guide else None


def cast_teacher(config: Run, params: Any) -> Any:
  """Returns the teacher's parameters, its weights in `config.teacher_dtype`.

  Weights are the arrays of two dimensions and more. Gains, biases and
  frequencies are few, and stay as they are.
  """
  dtype = jnp.dtype(config.teacher_dtype)
  return jax.tree.map(lambda x: x.astype(dtype) if x.ndim > 1 else x, params)
