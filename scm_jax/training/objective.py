"""From a config to the loss of one batch: randomness, conditions, teacher."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from scm_jax import trigflow
from scm_jax.codec import PixelCodec
from scm_jax.networks import Network
from scm_jax.objectives import consistency, diffusion, velocity

# loss(params, teacher_params, batch, key, step) -> (scalar, metrics)
Loss = Callable[[Any, Any, dict[str, Array], Array, Array], tuple[Array, dict]]


def build(
  config: Any, network: Network, codec: PixelCodec, teacher: Network | None
) -> Loss:
  """The loss that `config.run` names, as a pure function.

  Args:
    config: the run's config.
    network: what is trained.
    codec: from stored images to data.
    teacher: the network of the teacher, for `scd`.
  """
  c = config.objective
  sigma_d = config.sigma_d
  num_classes = network.config.num_classes

  def draw(batch, key):
    """Data, noise, times and condition, all from one key."""
    noise_key, time_key, dropout_key, label_key, scale_key = jax.random.split(
      key, 5
    )
    x0 = codec.encode(batch["image"])
    z = sigma_d * jax.random.normal(noise_key, x0.shape)
    t = trigflow.propose_times(time_key, len(x0), c.P_mean, c.P_std, sigma_d)
    cond = {}
    if num_classes:
      dropped = jax.random.bernoulli(label_key, c.label_dropout, (len(x0),))
      cond["label"] = jnp.where(dropped, num_classes, batch["label"])
    if network.config.guidance:
      low, high = c.guidance_range
      cond["guidance"] = jax.random.uniform(
        scale_key, (len(x0),), minval=low, maxval=high
      )
    return x0, z, t, cond, {"dropout": dropout_key}

  def teacher_velocity(teacher_params):
    """The teacher's velocity, guided as the config says."""

    def guided(x, t, cond):
      assert teacher is not None  # scd has one; see build.check
      F = functools.partial(teacher.F, teacher_params)
      if c.guidance == "fixed":
        F = velocity.guide(F, num_classes, c.guidance_scale)
      elif c.guidance == "sampled":
        F = velocity.guide(F, num_classes, cond["guidance"])
      return F(x, t, cond)

    return velocity.from_network(guided, sigma_d)

  def diffusion_loss(params, teacher_params, batch, key, step):
    del teacher_params, step
    x0, z, t, cond, rngs = draw(batch, key)
    return diffusion.loss(
      *(network.F, network.w, params, x0, z, t, cond),
      sigma_d=sigma_d,
      adaptive_weighting=c.adaptive_weighting,
      rngs=rngs,
    )

  fields = [f.name for f in dataclasses.fields(consistency.Options)]
  options = consistency.Options(**{name: c[name] for name in fields})

  def consistency_loss(params, teacher_params, batch, key, step):
    x0, z, t, cond, rngs = draw(batch, key)
    v = teacher_velocity(teacher_params) if config.run == "scd" else None
    r = jnp.minimum(1.0, step / max(c.warmup_steps, 1))
    return consistency.loss(
      *(network.F, network.w, params, v, x0, z, t, cond, r),
      sigma_d=sigma_d,
      options=options,
      rngs=rngs,
    )

  return diffusion_loss if config.run == "teacher" else consistency_loss
