"""From a config's fields to the objects that they describe."""

from typing import Any

import jax
import jax.numpy as jnp

from scm_jax import networks
from scm_jax.codec import PixelCodec
from scm_jax.errors import ConfigError
from scm_jax.model import Model

RUNS = ("teacher", "sct", "scd")
_CHOICES = {
  "run": RUNS,
  "network.form": ("trigflow", "edm2"),
  "network.dtype": ("float32", "bfloat16", "float64"),
  "objective.warmup": ("linear", "variance_exact"),
  "objective.derivative": ("jvp", "finite_difference", "discrete"),
  "objective.tangent_norm": ("l2", "rms", "clip", "none"),
  "objective.prior_weight": ("none", "inverse_sigma"),
  "objective.reduction": ("mean", "sum"),
  "objective.guidance": ("none", "fixed", "sampled"),
  "sample.solver": ("heun", "dpm_solver"),
}


def check(config: Any) -> None:
  """Raises ConfigError, in one line, for values that make no run."""
  for path, choices in _CHOICES.items():
    value = config
    for key in path.split("."):
      value = value[key]
    if value not in choices:
      raise ConfigError(
        f"config.{path} is {value!r}; choose one of {', '.join(choices)}"
      )
  for key in ("batch_size", "total_steps", "log_every", "checkpoint_every"):
    if config[key] < 1:
      raise ConfigError(f"config.{key} is {config[key]}; it must be positive")
  levels = len(config.network.channel_mult)
  if config.data.size % (1 << (levels - 1)):
    raise ConfigError(
      f"config.data.size is {config.data.size}, which {levels} levels of "
      "config.network.channel_mult cannot halve"
    )
  if not config.ema:
    raise ConfigError("config.ema is empty; name at least one average")
  if config.run == "scd" and not config.teacher:
    raise ConfigError(
      "config.run is 'scd' but config.teacher is empty; give a teacher's "
      "workdir with --config.teacher=DIR"
    )
  if config.objective.guidance != "none" and not config.data.num_classes:
    raise ConfigError(
      "config.objective.guidance needs labels, but config.data.num_classes is 0"
    )


def network_config(config: Any) -> networks.UNetConfig:
  """The network that a run trains."""
  fields = dict(config.network)
  fields["dtype"] = jnp.dtype(fields["dtype"])
  guidance = config.run == "scd" and config.objective.guidance == "sampled"
  return networks.UNetConfig(
    resolution=config.data.size,
    in_channels=config.data.channels,
    num_classes=config.data.num_classes,
    guidance=guidance,
    **fields,
  )


def model(config: Any, average: Any) -> Model:
  """What a run's averaged parameters draw with."""
  return Model(
    network=networks.build(network_config(config)),
    # An average of points on a sphere lies inside it.
    params=_normalized(average),
    codec=codec(config),
    consistency=config.run != "teacher",
    t_mid=config.sample.t_mid,
    sigma_max=config.sample.sigma_max,
    solver=config.sample.solver,
  )


_normalized = jax.jit(networks.magnitude.normalize_weights)


def codec(config: Any) -> PixelCodec:
  """Between the dataset's images and the network's data."""
  return PixelCodec(config.data.mean, config.data.std, config.sigma_d)
