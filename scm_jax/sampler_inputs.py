"""The checks of what a sampler is asked for: guidance, labels, noise, edits.

Every caller asks these functions, so that the command line, Python,
evaluations and exports accept and refuse the same, with the same words.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from scm_jax import editing
from scm_jax.codec import PixelCodec
from scm_jax.errors import ConfigError, UserError
from scm_jax.sampler_kinds import SamplerState

Labels = int | Sequence[int] | np.ndarray | None


def guidance_refusal(sampler: SamplerState) -> str | None:
  """Returns why a network cannot be guided, as a clause; None if it can."""
  config = sampler.network.config
  if sampler.rules.guidance_is_input:
    if config.guidance:
      return None
    return (
      "this student was trained without guidance as an input (train one with "
      "--config.objective.guidance=sampled)"
    )
  if sampler.guidance_network is not None:
    return None
  if not config.num_classes:
    return "this network takes no labels and has no guidance network"
  if not sampler.unconditional:
    return (
      "this network was always given labels in training and has no guidance "
      "network"
    )
  return None


def guidance_scale(
  sampler: SamplerState, guidance: float | None = None
) -> float:
  """Returns the scale to draw with.

  Args:
    sampler: the network with its own scale.
    guidance: the caller's choice; None is the sampler's own scale, or 1 for a
      network that cannot be guided.

  Raises:
    ConfigError: a scale other than 1 for a network that cannot be guided.
  """
  why = guidance_refusal(sampler)
  if why is None:
    return float(sampler.guidance if guidance is None else guidance)
  if guidance not in (None, 1.0):
    raise ConfigError(f"the guidance scale {guidance:g} cannot be used: {why}")
  return 1.0


def labels(
  sampler: SamplerState, given: Labels = None, num: int | None = None
) -> np.ndarray:
  """Returns one label for each image, int32 `[num]`.

  A network without labels gets zeros, which it does not read.

  Args:
    sampler: the network.
    given: the caller's choice: classes that are repeated in turn, the number of
      classes for "no label", or None for every class in turn.
    num: the number of images; None is one for each label.

  Raises:
    ConfigError: there is nothing to draw, or a label is none of this network's.
  """
  classes = sampler.network.config.num_classes
  if given is None:
    given = np.arange(max(classes, 1))
  elif not classes:
    raise ConfigError("this network takes no labels; give the number alone")
  label = np.atleast_1d(np.asarray(given, np.int32))
  if not len(label) or (num is not None and num < 1):
    raise ConfigError(
      "there is nothing to draw; give at least one label and a positive number"
    )
  legal = classes + 1 if sampler.unconditional else classes
  wrong = label[(label < 0) | (label >= legal)]
  if classes and len(wrong):
    no_label = f", and {classes} is no label" if legal > classes else ""
    raise ConfigError(
      f"{wrong[0]} is not a label of this network: its classes are 0 to "
      f"{classes - 1}{no_label}"
    )
  return np.resize(label, len(label) if num is None else num)


def steps_from_noise(
  sampler: SamplerState, noise: np.ndarray, steps: int | None
) -> int:
  """Returns the number of steps that are taken from given noise.

  Args:
    sampler: the network.
    noise: unit noise `[draws, N, H, W, C]`.
    steps: the caller's choice; None is one for each draw of a consistency
      model, and a diffusion model's own number.

  Raises:
    UserError: noise of another shape, or more or fewer draws than the steps
      take.
  """
  if noise.shape[2:] != sampler.data_shape or not noise.size:
    shape = ", ".join(map(str, sampler.data_shape))
    raise UserError(
      f"noise must have the shape [draws, N, {shape}], not {list(noise.shape)}"
    )
  draws = len(noise)
  if steps is None:
    steps = draws if sampler.rules.fresh_noise else sampler.steps
  wanted = sampler.noise_draws(steps)
  if draws != wanted:
    raise UserError(
      f"the noise has {draws} draws, but this sampler takes {wanted} for "
      f"{steps} steps"
    )
  return steps


def check_edit(
  sampler: SamplerState,
  images: np.ndarray,
  known: editing.Known | np.ndarray | None,
  start: float | None,
) -> None:
  """Checks the arguments of an edit.

  Raises:
    UserError: the network cannot edit, or an argument does not fit.
  """
  if not sampler.rules.edits:
    raise UserError(
      f"a {sampler.kind} model cannot edit images; load a student"
    )
  if not isinstance(sampler.codec, PixelCodec):
    raise UserError("a network of latents cannot edit images")
  if known is None and start is None:
    raise UserError("an edit needs known, or start, or both")
  if images.dtype != np.uint8 or images.shape[1:] != sampler.data_shape:
    shape = ", ".join(map(str, sampler.data_shape))
    raise UserError(
      f"images must be uint8 [N, {shape}], not {images.dtype} "
      f"{list(images.shape)}"
    )
  if start is not None and not 0 < start < np.pi / 2:
    raise UserError(f"start is {start:g}, but must lie between 0 and pi/2")


def known_mask(known: editing.Known, shape: tuple[int, ...]) -> np.ndarray:
  """Returns which coefficients of each image are known, as a bool array.

  Args:
    known: what is known.
    shape: the images' shape `[N, H, W, C]`.

  Raises:
    UserError: what is known does not fit images of this shape.
  """
  images = jax.ShapeDtypeStruct(shape, jnp.float32)
  try:
    coefficients = jax.eval_shape(known.transform.forward, images)
    return np.broadcast_to(known.mask, coefficients.shape)
  except (TypeError, ValueError) as error:
    raise UserError(
      f"known does not fit images of the shape {list(shape)}: {error}"
    ) from error
