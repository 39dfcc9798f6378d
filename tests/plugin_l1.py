"""An objective and a network family as another package would add them."""

import dataclasses

import flax.linen as nn
import jax.numpy as jnp

from scm_jax import trigflow
from scm_jax.defaults import get_defaults
from scm_jax.networks import FAMILIES, Family, NetworkConfig
from scm_jax.objectives import OBJECTIVES, diagnostics, spec, weighting


@dataclasses.dataclass(frozen=True)
class Options(spec.Options):
  """Options of the regression of velocities by a power of their error."""

  power: float = 1.0


def loss(student, params, point, velocity, options, step):
  """Returns the mean power of the velocity's error."""
  x0, z, t, sigma_d = point.x0, point.z, point.t, options.sigma_d
  x_t = trigflow.interpolate(x0, z, t)
  output = spec.evaluate(student.F, params, x_t / sigma_d, t, point)
  difference = sigma_d * output - trigflow.data_velocity(x0, z, t)
  errors = jnp.mean(jnp.abs(difference) ** options.power, axis=(1, 2, 3))
  valid = diagnostics.finite(errors)
  log_weight = weighting.log_weight(student, params, options, t)
  scale = weighting.UNITS[options.weighting_unit](x0.shape[1:])
  total, _ = weighting.weigh(errors, log_weight, valid, scale)
  return total, {"loss": total, "valid": valid}


@dataclasses.dataclass(frozen=True)
class WaveConfig(NetworkConfig):
  """A network of two layers."""

  width: int = 5


class Wave(nn.Module):
  """Mixes the channels of each pixel."""

  config: WaveConfig

  @nn.compact
  def __call__(self, x, t, cond, train=False):
    hidden = nn.Dense(self.config.width)(x) + t[:, None, None, None]
    return nn.Dense(x.shape[-1])(jnp.sin(hidden))


OBJECTIVES["l1"] = spec.Spec(
  label="L1",
  color="#009E73",
  marker="^",
  description="a network trained by powers of errors",
  kind="diffusion",
  options=Options,
  loss=loss,
)
FAMILIES["wave"] = Family(WaveConfig, Wave)


def get_config(arg: str = ""):
  """Returns the config of a small run on the digits."""
  config = get_defaults("l1", family="wave")
  config.batch_size, config.total_steps = 8, 4
  config.data.update(name="scm_digits", size=8, channels=1, num_classes=10)
  config.network.width, config.objective.power = 7, 1.5
  config.sample.num, config.sample.solver_steps = 4, 3
  return config
