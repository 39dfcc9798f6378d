"""Checks of a config, and the objects that its fields describe."""

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp

from scm_jax import networks, schema
from scm_jax.codec import Codec, LatentCodec, PixelCodec
from scm_jax.defaults import GROUPS, Run, get_defaults
from scm_jax.errors import ConfigError
from scm_jax.objectives import OBJECTIVES, Options
from scm_jax.sampler import Sampler
from scm_jax.training import offload
from scm_jax.training.ema import averaging

_T = TypeVar("_T")
DTYPES = ("float32", "bfloat16", "float16", "float64")


def check(config: Any) -> None:
  """Raises ConfigError, in one line, for values that make no run."""
  group(config, "", Run)
  for name, kind in GROUPS.items():
    group(config[name], f"{name}.", kind)
  _check_network(config)
  _check_objective(config)
  for part in config.offload:
    if part not in offload.GROUPS:
      raise ConfigError(
        f"config.offload names {part!r}; choose of {', '.join(offload.GROUPS)}"
      )
  averaging.check(config)


def group(values: Any, prefix: str, kind: type[_T], **more: Any) -> _T:
  """Returns a group of fields as a frozen dataclass.

  Args:
    values: the group of the config.
    prefix: the group's name and a dot, for messages.
    kind: the dataclass.
    **more: its fields that are no options of the group.

  Raises:
    ConfigError: the values make no such group.
  """
  try:
    given = {name: values[name] for name in schema.options(kind)}
    return kind(**given, **more)
  except ConfigError as error:
    raise ConfigError(f"config.{prefix}{error}") from None


def _check_network(config: Any) -> None:
  """Raises ConfigError for values that make no network."""
  families = {name: f.config for name, f in networks.FAMILIES.items()}
  family = config.network.family
  schema.pick(families, family, "config.network.family")
  if config.network.dtype not in DTYPES:
    raise ConfigError(
      f"config.network.dtype is {config.network.dtype!r}; choose one of "
      f"{', '.join(DTYPES)}"
    )
  network_config(config)
  _check_fields(config, "network", families, family)
  if config.data.augment and not config.network.augment:
    raise ConfigError(
      f"config.data.augment is {config.data.augment}, but the network is not "
      "told what was done, and would draw it; set config.network.augment too"
    )


def _check_objective(config: Any) -> None:
  """Raises ConfigError for values that make no objective."""
  spec, chosen = OBJECTIVES[config.run], options(config)
  kinds = {name: spec.options for name, spec in OBJECTIVES.items()}
  _check_fields(config, "objective", kinds, config.run)
  if config.optimizer.name == "radam" and chosen.weighting_unit == "pixel":
    raise ConfigError(
      "config.objective.weighting_unit is 'pixel'; RAdam, whose first updates "
      "grow with the loss, needs 'sample'"
    )
  if not spec.asks_teacher(chosen):
    return
  if not config.teacher:
    raise ConfigError(
      f"config.run={config.run} evaluates a teacher in every step, but "
      "config.teacher is empty; give a teacher's workdir with "
      "--config.teacher=DIR"
    )
  if chosen.guidance == "sampled" and not spec.takes_guidance(chosen):
    raise ConfigError(
      "config.objective.guidance is 'sampled', but the network of a run of "
      f"{config.run!r} takes no guidance scale; choose none or fixed"
    )


def _check_fields(
  config: Any, group: str, kinds: dict[str, type], chosen: str
) -> None:
  """Raises ConfigError for a field of a group that the chosen kind lacks.

  The config has the fields of all kinds. One that the chosen kind does not have
  must be as it is by default.
  """
  defaults = get_defaults()[group]
  for name in set(defaults) - set(schema.options(kinds[chosen])) - {"family"}:
    if config[group][name] == defaults[name]:
      continue
    owners = [k for k, kind in kinds.items() if name in schema.options(kind)]
    raise ConfigError(
      f"config.{group}.{name} is {config[group][name]!r}, but {chosen} has no "
      f"such field; it belongs to {', '.join(owners)}"
    )


def options(config: Any) -> Options:
  """Returns the options of the objective that `config.run` names.

  Raises:
    ConfigError: an option has no such value.
  """
  kind = OBJECTIVES[config.run].options
  return group(config.objective, "objective.", kind, sigma_d=config.sigma_d)


def asks_teacher(config: Any) -> bool:
  """Returns whether every step evaluates the teacher, not the start alone."""
  return OBJECTIVES[config.run].asks_teacher(options(config))


def network_config(config: Any) -> networks.NetworkConfig:
  """Returns the config of the network that a run trains.

  Raises:
    ConfigError: its values make no network.
  """
  return group(
    config.network.to_dict() | {"dtype": jnp.dtype(config.network.dtype)},
    "network.",
    networks.FAMILIES[config.network.family].config,
    resolution=config.data.size,
    in_channels=config.data.channels,
    num_classes=config.data.num_classes,
    guidance=OBJECTIVES[config.run].takes_guidance(options(config)),
    sigma_d=config.sigma_d,
  )


def model(config: Any, average: Any) -> Sampler:
  """Returns the sampler of a run's EMA, whose arrays stay in their shards."""
  return Sampler(
    network=networks.build(network_config(config)),
    params=constrained(config, average),
    codec=codec(config),
    kind=OBJECTIVES[config.run].kind,
    t_mid=config.sample.t_mid,
    sigma_max=config.sample.sigma_max,
    solver=config.sample.solver,
    solver_steps=config.sample.solver_steps,
    guidance=config.sample.guidance,
    unconditional=bool(config.objective.label_dropout),
    batch_size=config.sample.batch_size,
  )


def constrained(config: Any, average: Any) -> Any:
  """Returns an average on the constraint of its network's weights.

  An average of points on EDM2's sphere lies inside it. The arrays stay in their
  shards. Where a filter is cut, or lies beside fewer others than on one device,
  its sum of squares is taken in another order, and the result may differ in the
  last bits.

  Args:
    config: the run's config.
    average: any tree of its network's parameters.
  """
  # EDM2's own networks are used as EDM2 normalises them.
  eps = networks.magnitude.EPS if config.network.form == "edm2" else 0.0
  leaves, structure = jax.tree.flatten(average)
  where = tuple(getattr(leaf, "sharding", None) for leaf in leaves)
  return _constrain(config.network.family, eps, structure, where)(average)


@functools.lru_cache(maxsize=64)
def _constrain(
  family: str, eps: float, structure: Any, where: tuple
) -> Callable:
  """Returns a function that is jitted once for each tree of shardings."""
  apply = networks.FAMILIES[family].constraint.apply
  return jax.jit(
    functools.partial(apply, eps=eps), out_shardings=structure.unflatten(where)
  )


def codec(config: Any) -> Codec:
  """Returns the codec between stored data and the network's data."""
  data = config.data
  if data.kind == "images":
    return PixelCodec(data.mean, data.std, config.sigma_d)
  return LatentCodec(
    tuple(data.mean), tuple(data.std), config.sigma_d, tuple(data.image_range)
  )
