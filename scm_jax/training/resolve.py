"""From a config's fields to the objects that they describe."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from scm_jax import networks
from scm_jax.codec import PREVIEW, Codec, LatentCodec, PixelCodec
from scm_jax.errors import ConfigError
from scm_jax.networks import attention, rematerialization, weighting
from scm_jax.sampler import Sampler
from scm_jax.training import offload
from scm_jax.training.ema import averaging

RUNS = ("teacher", "sct", "scd")
DTYPES = ("float32", "bfloat16", "float16", "float64")
PRECISIONS = ("highest", "high", "default")  # of products; see defaults.py
_CHOICES = {
  "run": RUNS,
  "data.kind": ("images", "latents"),
  "network.family": tuple(networks.FAMILIES),
  "network.double_norm": ("split", "shared", "gained"),
  "network.weighting": weighting.HEADS,
  "network.dtype": DTYPES,
  "network.precision": PRECISIONS,
  "network.attention": tuple(attention.IMPLEMENTATIONS),
  "network.remat": tuple(rematerialization.POLICIES),
  "objective.tangent_dtype": ("", *DTYPES),
  "objective.tangent_precision": PRECISIONS,
  "objective.target": ("data", "teacher"),
  "objective.warmup": ("linear", "variance_exact"),
  "objective.derivative": ("jvp", "finite_difference", "discrete"),
  "objective.tangent_norm": ("l2", "rms", "clip", "none"),
  "objective.prior_weight": ("none", "inverse_sigma"),
  "objective.reduction": ("mean", "sum"),
  "objective.weighting_unit": ("sample", "pixel"),
  "objective.guidance": ("none", "fixed", "sampled"),
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
  published = networks.FAMILIES[config.network.family].published
  _check_choice(config, "network.form", ("trigflow", published))
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
  levels = len(config.network.channel_mult)
  if config.data.size % (1 << (levels - 1)):
    raise ConfigError(
      f"config.data.size is {config.data.size}, which {levels} levels of "
      "config.network.channel_mult cannot halve"
    )
  averaging.check(config)
  pixel = config.objective.weighting_unit == "pixel"
  if config.optimizer.name == "radam" and pixel:
    raise ConfigError(
      "config.objective.weighting_unit is 'pixel'; RAdam, whose first updates "
      "grow with the loss, needs 'sample'"
    )
  if asks_teacher(config) and not config.teacher:
    field = "run" if config.run == "scd" else "objective.target"
    value = "scd" if config.run == "scd" else "teacher"
    raise ConfigError(
      f"config.{field} is {value!r} but config.teacher is empty; give a "
      "teacher's workdir with --config.teacher=DIR"
    )
  if asks_teacher(config) and config.run == "teacher":
    # Only a student of sCD takes the scale as an input.
    _check_choice(config, "objective.guidance", ("none", "fixed"))


def asks_teacher(config: Any) -> bool:
  """Whether every step evaluates the teacher, not the start alone."""
  adapts = config.run == "teacher" and config.objective.target == "teacher"
  return config.run == "scd" or adapts


def _check_choice(config: Any, path: str, choices: tuple[str, ...]) -> None:
  value = config
  for key in path.split("."):
    value = value[key]
  if value not in choices:
    raise ConfigError(
      f"config.{path} is {value!r}; choose one of {', '.join(choices)}"
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
  if config.network.augment and config.network.family != "ddpmpp":
    raise ConfigError(
      "config.network.augment is an input of ddpmpp, which "
      f"config.network.family={config.network.family!r} does not have"
    )
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
  """The network that a run trains.

  Fields of `config.network` that its family does not have are left unread.
  """
  kind = networks.FAMILIES[config.network.family].config
  names = {field.name for field in dataclasses.fields(kind)}
  fields = {k: v for k, v in config.network.items() if k in names}
  fields["dtype"] = jnp.dtype(fields["dtype"])
  guidance = config.run == "scd" and config.objective.guidance == "sampled"
  return kind(
    resolution=config.data.size,
    in_channels=config.data.channels,
    num_classes=config.data.num_classes,
    guidance=guidance,
    sigma_d=config.sigma_d,
    **fields,
  )


def model(config: Any, average: Any) -> Sampler:
  """What a run's averaged parameters draw with.

  The model's parameters lie where the average lies, in the same shards.
  """
  return Sampler(
    network=networks.build(network_config(config)),
    params=on_sphere(config, average),
    codec=codec(config),
    kind="diffusion" if config.run == "teacher" else "consistency",
    t_mid=config.sample.t_mid,
    sigma_max=config.sample.sigma_max,
    solver=config.sample.solver,
    solver_steps=config.sample.solver_steps,
    guidance=config.sample.guidance,
    unconditional=bool(config.objective.label_dropout),
    batch_size=config.sample.batch_size,
  )


def on_sphere(config: Any, average: Any) -> Any:
  """An average put on the weights' sphere, inside of which it lies.

  Its arrays stay in their shards. Where a filter is cut, or lies beside fewer
  others than on one device, its sum of squares is taken in another order, and
  the result may differ in the last bits.

  Args:
    config: of the run.
    average: any tree of parameters.
  """
  # EDM2's own networks are used as EDM2 normalises them.
  eps = networks.magnitude.EPS if config.network.form == "edm2" else 0.0
  leaves, structure = jax.tree.flatten(average)
  where = tuple(getattr(leaf, "sharding", None) for leaf in leaves)
  return _normalizer(eps, structure, where)(average)


@functools.lru_cache(maxsize=64)
def _normalizer(eps: float, structure: Any, where: tuple) -> Callable:
  """Jitted once for each tree of shardings."""
  normalize = functools.partial(networks.magnitude.normalize_weights, eps=eps)
  return jax.jit(normalize, out_shardings=structure.unflatten(where))


def codec(config: Any) -> Codec:
  """Between what the dataset stores and the network's data."""
  data = config.data
  if data.kind == "images":
    return PixelCodec(data.mean, data.std, config.sigma_d)
  return LatentCodec(
    tuple(data.mean), tuple(data.std), config.sigma_d, tuple(data.image_range)
  )
