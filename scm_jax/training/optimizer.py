"""Builds the optimiser: Adam or RAdam with EDM2's learning-rate schedule."""

import jax.numpy as jnp
import optax
from jax import Array

from scm_jax import schema
from scm_jax.defaults import Run


def learning_rate(config: Run, step: Array) -> Array:
  """Returns the learning rate of an update.

  It is EDM2's `alpha_ref / sqrt(max(step / t_ref, 1))` (arXiv 2312.02696)
  times a linear ramp-up over images. An optional linear cooldown brings it to
  zero at `total_steps`. `step` is the number of updates before this one.
  """
  c = config.optimizer
  step = jnp.asarray(step, jnp.float32)
  rate = jnp.full_like(step, c.learning_rate)
  if c.decay_steps:
    rate = rate / jnp.sqrt(jnp.maximum(step / c.decay_steps, 1.0))
  if c.rampup_images:
    rate = rate * jnp.minimum(step * config.batch_size / c.rampup_images, 1.0)
  if c.cooldown:
    left = (config.total_steps - step) / (c.cooldown * config.total_steps)
    rate = rate * jnp.clip(left, 0.0, 1.0)
  return rate


def build(config: Run) -> optax.GradientTransformation:
  """Returns the optimiser that `config.optimizer` names.

  Raises:
    ConfigError: there is no such optimiser.
  """
  c = config.optimizer
  rules = {"adam": optax.scale_by_adam, "radam": optax.scale_by_radam}
  rule = schema.pick(rules, c.name, "optimizer.name")
  return optax.chain(
    rule(b1=c.b1, b2=c.b2, eps=c.eps),
    optax.scale_by_learning_rate(lambda step: learning_rate(config, step)),
  )
