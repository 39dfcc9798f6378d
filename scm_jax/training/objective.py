"""From a config to the loss of one batch: randomness, conditions, teacher."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from scm_jax import trigflow
from scm_jax.codec import Codec
from scm_jax.data import augmentation
from scm_jax.networks import Network
from scm_jax.objectives import consistency, diffusion, velocity
from scm_jax.training.build import asks_teacher

# What is drawn for a batch: arrays whose first axis is the sample.
Draws = dict[str, Any]

AUGMENT = 0x61756721  # folded into the key of a step


class Objective(NamedTuple):
  """The loss of a run, in two pure functions.

  All randomness is in the first, which sees the whole batch; the second may be
  given any part of what it drew, so that a sample's draws do not depend on the
  microbatch, device or process that it falls to.

  Attributes:
    draw: `draw(batch, key) -> draws`.
    loss: `loss(params, teacher_params, draws, step) -> (scalar, metrics)`; the
      scalar is a mean over the samples that are finite.
  """

  draw: Callable[[dict[str, Array], Array], Draws]
  loss: Callable[[Any, Any, Draws, Array], tuple[Array, dict[str, Any]]]


def build(
  config: Any,
  network: Network,
  codec: Codec,
  teacher: Network | None,
  weak: Network | None = None,
) -> Objective:
  """The objective that `config.run` names.

  Args:
    config: the run's config.
    network: what is trained.
    codec: from what the dataset stores to data.
    teacher: the network of the teacher, where one is asked.
    weak: the network that guides the teacher; None is the teacher itself,
      without labels. See `velocity.guided`.
  """
  c = config.objective
  sigma_d = config.sigma_d
  num_classes = network.config.num_classes
  asks = asks_teacher(config)

  def draw(batch, key):
    """Data, noise, times and condition, all from one key."""
    noise_key, time_key, dropout_key, label_key, scale_key, encode_key = (
      jax.random.split(key, 6)
    )
    x0 = codec.encode(batch["image"], encode_key)
    z = sigma_d * jax.random.normal(noise_key, x0.shape)
    t = trigflow.propose_times(time_key, len(x0), c.P_mean, c.P_std, sigma_d)
    cond = {}
    if network.config.augment:
      # A key beside the others, which so are those of runs without.
      x0, cond["augment"] = augmentation.augment(
        x0, jax.random.fold_in(key, AUGMENT), config.data.augment
      )
    if num_classes:
      dropped = jax.random.bernoulli(label_key, c.label_dropout, (len(x0),))
      cond["label"] = jnp.where(dropped, num_classes, batch["label"])
    if network.config.guidance:
      low, high = c.guidance_range
      cond["guidance"] = jax.random.uniform(
        scale_key, (len(x0),), minval=low, maxval=high
      )
    dropout_keys = jax.random.split(dropout_key, len(x0))
    return {"x0": x0, "z": z, "t": t, "cond": cond, "dropout": dropout_keys}

  def teacher_velocity(teacher_params):
    """The teacher's velocity, guided as the config says."""

    def guided(x, t, cond):
      assert teacher is not None  # see build.check
      if c.guidance == "none":
        return teacher.F(teacher_params, x, t, cond)
      fixed = c.guidance == "fixed"
      scale = c.guidance_scale if fixed else cond["guidance"]
      F = velocity.guided(teacher, weak, teacher_params, scale)
      return F(x, t, cond)

    return velocity.from_network(guided, sigma_d)

  def diffusion_loss(params, teacher_params, draws, step):
    del step
    x0, z, t, cond, rngs = _unpacked(draws)
    return diffusion.loss(
      *(network.F, network.w, params, x0, z, t, cond),
      sigma_d=sigma_d,
      adaptive_weighting=c.adaptive_weighting,
      weighting_unit=c.weighting_unit,
      velocity=teacher_velocity(teacher_params) if asks else None,
      rngs=rngs,
    )

  fields = [f.name for f in dataclasses.fields(consistency.Options)]
  options = consistency.Options(**{name: c[name] for name in fields})

  def consistency_loss(params, teacher_params, draws, step):
    x0, z, t, cond, rngs = _unpacked(draws)
    v = teacher_velocity(teacher_params) if asks else None
    r = jnp.minimum(1.0, step / max(c.warmup_steps, 1))
    return consistency.loss(
      *(network.F, network.w, params, v, x0, z, t, cond, r),
      sigma_d=sigma_d,
      options=options,
      rngs=rngs,
    )

  diffuses = config.run == "teacher"
  return Objective(draw, diffusion_loss if diffuses else consistency_loss)


def _unpacked(draws):
  rngs = {"dropout": draws["dropout"]}
  return draws["x0"], draws["z"], draws["t"], draws["cond"], rngs
