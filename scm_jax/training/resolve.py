"""From a config's fields to the objects that they describe."""

import functools
from collections.abc import Callable, Collection
from typing import Any

import jax
import jax.numpy as jnp

from scm_jax import networks, schema
from scm_jax.codec import PREVIEW, Codec, LatentCodec, PixelCodec
from scm_jax.defaults import get_defaults
from scm_jax.errors import ConfigError
from scm_jax.model import Model
from scm_jax.objectives import OBJECTIVES, Options
from scm_jax.training import offload
from scm_jax.training.ema import averaging

DTYPES = ("float32", "bfloat16", "float16", "float64")
_CHOICES: dict[str, Collection[str]] = {
  "run": OBJECTIVES,
  "data.kind": ("images", "latents"),
  "network.family": networks.FAMILIES,
  "network.dtype": DTYPES,
  "sample.solver": ("heun", "dpm_solver"),
  "sharding.reduce_dtype": ("", "float32"),
  "memory_check": ("stop", "warn", "off"),
  "nonfinite": ("stop", "warn"),
  "teacher_dtype": ("float32", "bfloat16", "float16"),
  "snapshot_dtype": ("float16", "bfloat16", "float32"),
}


def check(config: Any) -> None:
  """Raises ConfigError, in one line, for values that make no run."""
  for path, choices in _CHOICES.items():
    _check_choice(config, path, choices)
  _check_groups(config)
  positive = ("batch_size", "total_steps", "log_every", "checkpoint_every")
  for key in positive:
    if config[key] < 1:
      raise ConfigError(f"config.{key} is {config[key]}; it must be positive")
  for key in ("microbatches", "images_per_pass"):
    if config[key] < 0:
      raise ConfigError(
        f"config.{key} is {config[key]}; it must not be negative"
      )
  for group in config.offload:
    if group not in offload.GROUPS:
      raise ConfigError(
        f"config.offload names {group!r}; choose of {', '.join(offload.GROUPS)}"
      )
  _check_data(config.data)
  _check_augmentation(config)
  averaging.check(config)
  pixel = config.objective.weighting_unit == "pixel"
  if config.optimizer.name == "radam" and pixel:
    raise ConfigError(
      "config.objective.weighting_unit is 'pixel'; RAdam, whose first updates "
      "grow with the loss, needs 'sample'"
    )
  if asks_teacher(config) and not config.teacher:
    raise ConfigError(
      f"config.run={config.run} evaluates a teacher in every step, but "
      "config.teacher is empty; give a teacher's workdir with "
      "--config.teacher=DIR"
    )
  if asks_teacher(config) and config.objective.guidance == "sampled":
    if not OBJECTIVES[config.run].takes_guidance(options(config)):
      raise ConfigError(
        "config.objective.guidance is 'sampled', but the network of a run of "
        f"{config.run!r} takes no guidance scale; choose none or fixed"
      )


def options(config: Any) -> Options:
  """Returns the options of the objective that `config.run` names.

  Raises:
    ConfigError: an option has no such value.
  """
  kind = OBJECTIVES[config.run].options
  given = {name: config.objective[name] for name in schema.options(kind)}
  try:
    return kind(sigma_d=config.sigma_d, **given)
  except ConfigError as error:
    raise ConfigError(f"config.objective.{error}") from None


def asks_teacher(config: Any) -> bool:
  """Returns whether every step evaluates the teacher, not the start alone."""
  return OBJECTIVES[config.run].asks_teacher(options(config))


def _check_choice(config: Any, path: str, choices: Collection[str]) -> None:
  """Raises ConfigError unless a field has one of its values."""
  value = config
  for key in path.split("."):
    value = value[key]
  if value not in choices:
    raise ConfigError(
      f"config.{path} is {value!r}; choose one of {', '.join(choices)}"
    )


def _check_groups(config: Any) -> None:
  """Raises ConfigError for fields that the network or the objective lacks.

  The config has the fields of all families and of all objectives. One that the
  run's own do not have must be as it is by default.
  """
  network_config(config)  # for what it may refuse
  families = {name: f.config for name, f in networks.FAMILIES.items()}
  objectives = {name: spec.options for name, spec in OBJECTIVES.items()}
  _check_fields(config, "network", families, config.network.family)
  _check_fields(config, "objective", objectives, config.run)


def _check_fields(
  config: Any, group: str, kinds: dict[str, type], chosen: str
) -> None:
  """Raises ConfigError for a field of a group that the chosen kind lacks."""
  defaults = get_defaults()[group]
  for name in set(defaults) - set(schema.options(kinds[chosen])) - {"family"}:
    if config[group][name] == defaults[name]:
      continue
    owners = [k for k, kind in kinds.items() if name in schema.options(kind)]
    raise ConfigError(
      f"config.{group}.{name} is {config[group][name]!r}, but {chosen} has no "
      f"such field; it belongs to {', '.join(owners)}"
    )


def _check_data(data: Any) -> None:
  latents = data.kind == "latents"
  if data.autoencoder and not latents:
    raise ConfigError(
      f"config.data.autoencoder decodes latents, and config.data.kind is "
      f"{data.kind!r}; leave it empty"
    )
  if latents and data.channels != len(PREVIEW):
    raise ConfigError(
      f"config.data.channels is {data.channels}; latents have {len(PREVIEW)}, "
      "as Stable Diffusion's autoencoder gives them"
    )
  if latents and data.flip:
    raise ConfigError(
      "config.data.flip mirrors images, not latents; set it to false"
    )
  for key in ("mean", "std"):
    numbers = data[key] if isinstance(data[key], tuple) else None
    if numbers is None and not latents:
      continue
    if numbers is None or len(numbers) != data.channels:
      raise ConfigError(
        f"config.data.{key} is {data[key]}; give {data.channels} numbers, one "
        "for each of config.data.channels"
      )


def _check_augmentation(config: Any) -> None:
  data, probability = config.data, config.data.augment
  if not 0 <= probability <= 1:
    raise ConfigError(
      f"config.data.augment is {probability}; it is a probability"
    )
  if not probability:
    return
  if not config.network.augment:
    raise ConfigError(
      f"config.data.augment is {probability}, but the network is not told what "
      "was done, and would draw it; set config.network.augment too"
    )
  if data.kind != "images" or data.flip:
    raise ConfigError(
      "config.data.augment changes images and mirrors them itself; "
      f"config.data.kind={data.kind!r} and config.data.flip={data.flip} do not "
      "go with it"
    )


def network_config(config: Any) -> networks.NetworkConfig:
  """Returns the config of the network that a run trains.

  Raises:
    ConfigError: its values make no network.
  """
  kind = networks.FAMILIES[config.network.family].config
  fields = {name: config.network[name] for name in schema.options(kind)}
  fields["dtype"] = jnp.dtype(fields["dtype"])
  try:
    return kind(
      resolution=config.data.size,
      in_channels=config.data.channels,
      num_classes=config.data.num_classes,
      guidance=OBJECTIVES[config.run].takes_guidance(options(config)),
      sigma_d=config.sigma_d,
      **fields,
    )
  except ConfigError as error:
    raise ConfigError(f"config.network.{error}") from None


def model(config: Any, average: Any) -> Model:
  """What a run's averaged parameters draw with.

  The model's parameters lie where the average lies, in the same shards.
  """
  return Model(
    network=networks.build(network_config(config)),
    params=constrained(config, average),
    codec=codec(config),
    consistency=OBJECTIVES[config.run].kind == "consistency",
    t_mid=config.sample.t_mid,
    sigma_max=config.sample.sigma_max,
    solver=config.sample.solver,
    solver_steps=config.sample.solver_steps,
    guidance=config.sample.guidance,
    unconditional=bool(config.objective.label_dropout),
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
  """Between what the dataset stores and the network's data."""
  data = config.data
  if data.kind == "images":
    return PixelCodec(data.mean, data.std, config.sigma_d)
  return LatentCodec(
    tuple(data.mean), tuple(data.std), config.sigma_d, tuple(data.image_range)
  )
