"""The checks of what a sampler is asked for: guidance, labels, noise, edits.

Every caller asks these functions, so that the command line, Python,
evaluations and exports accept and refuse the same, with the same words.
"""

import math
import operator
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from scm_jax import editing
from scm_jax.codec import PixelCodec
from scm_jax.errors import ConfigError, UserError
from scm_jax.sampler_kinds import Guidance, joined
from scm_jax.sampler_state import SamplerState

INT32 = np.iinfo(np.int32)  # of seeds, labels and images' numbers
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

  None is the sampler's own scale, or 1 for a network that cannot be guided.

  Raises:
    ConfigError: a scale other than 1 for a network that cannot be guided, or
      one that is negative or not finite.
  """
  why = guidance_refusal(sampler)
  if why is None:
    return _scale(sampler.guidance if guidance is None else guidance)
  if guidance not in (None, 1.0):
    raise ConfigError(f"the guidance scale {guidance:g} cannot be used: {why}")
  return 1.0


def guidance_scales(
  sampler: SamplerState, guidance: float | Sequence[float] | None, steps: int
) -> Guidance:
  """Returns the scale to draw with, or those of the steps.

  `guidance` is as for `guidance_scale`; or one scale for each step, where the
  network takes the scale as an input.

  Raises:
    ConfigError: as `guidance_scale`; or the network does not take a scale for
      each step, or there are not as many as steps.
  """
  if isinstance(guidance, np.ndarray | jax.Array) and guidance.ndim:
    guidance = guidance.tolist()
  if not isinstance(guidance, Sequence) or isinstance(guidance, str):
    return guidance_scale(sampler, guidance)
  scales = tuple(map(_scale, guidance))
  shown = f"the guidance scales {joined(scales)}, one for each step,"
  why = guidance_refusal(sampler)
  if not sampler.rules.guidance_is_input:
    why = "this is a diffusion model, whose guidance has one scale"
  if why:
    raise ConfigError(f"{shown} cannot be used: {why}")
  if len(scales) != steps:
    raise ConfigError(f"{shown} are not as many as the {steps} steps")
  return scales


def _scale(scale: float) -> float:
  number = not isinstance(scale, str) and not np.ndim(scale)
  if not number or not 0 <= scale < math.inf:
    raise ConfigError(
      f"the guidance scale is {scale!r}; it must be a number of at least 0"
    )
  return float(scale)


def scale_array(guidance: Guidance) -> np.ndarray:
  """Returns what `guidance_scales` returned as programs take it, float32.

  One scale is `[]`; those of the steps are `[steps, 1]`.
  """
  array = np.asarray(guidance, np.float32)
  return array[:, None] if array.ndim else array


def check_guide(sampler: SamplerState, weak: SamplerState) -> None:
  """Raises ConfigError unless one diffusion model may guide the other."""
  if sampler.rules.guidance_is_input or weak.rules.guidance_is_input:
    raise ConfigError(
      "only a diffusion model can be guided by another one, and only another "
      f"diffusion model can guide it; here a {weak.kind} model would guide a "
      f"{sampler.kind} model"
    )
  ours, theirs = sampler.network.config, weak.network.config
  differing = [
    (name, getattr(theirs, name), getattr(ours, name))
    for name in ("resolution", "in_channels", "num_classes")
  ]
  scale = lambda codec: (codec.mean, codec.std, codec.sigma_d)
  differing.append(
    ("the data's scale", scale(weak.codec), scale(sampler.codec))
  )
  for name, a, b in differing:
    unlabelled = name == "num_classes" and not a
    if a != b and not unlabelled:
      raise ConfigError(
        f"the weak network does not fit the network that it guides: {name} is "
        f"{a} there and {b} here; choose one that was trained on the same data"
      )


def labels(
  sampler: SamplerState, given: Labels = None, num: int | None = None
) -> np.ndarray:
  """Returns one label for each image, int32 `[num]`.

  A network without labels gets zeros, which it does not read.

  Args:
    sampler: the network.
    given: classes that are repeated in turn, the number of classes for "no
      label", or None for every class in turn.
    num: the number of images; None is one for each label.

  Raises:
    ConfigError: there is nothing to draw, the number is no whole one, or this
      network does not have a label.
  """
  classes = sampler.network.config.num_classes
  if given is None:
    given = np.arange(max(classes, 1))
  elif not classes:
    raise ConfigError("this network takes no labels; give the number alone")
  label = np.atleast_1d(np.asarray(given))
  count = len(label) if num is None else num
  if not len(label) or (_is_whole(count) and count < 1):
    raise ConfigError(
      "there is nothing to draw; give at least one label and a positive number"
    )
  if label.ndim > 1 or label.dtype.kind not in "iu":
    raise ConfigError(
      f"labels must be whole numbers [N], not {label.dtype} {list(label.shape)}"
    )
  count = whole("num", count, 1)
  legal = classes + 1 if sampler.unconditional else classes
  wrong = label[(label < 0) | (label >= legal)]
  if classes and len(wrong):
    no_label = f", and {classes} is no label" if legal > classes else ""
    raise ConfigError(
      f"{wrong[0]} is not a label of this network: its classes are 0 to "
      f"{classes - 1}{no_label}"
    )
  return np.resize(label.astype(np.int32), count)


def steps_and_seed(
  sampler: SamplerState, steps: int | None, seed: int = 0
) -> int:
  """Returns the number of steps, None being the sampler's own.

  Raises:
    ConfigError: it is not a positive whole number, or the seed is none that
      fits into 32 bits.
  """
  steps = sampler.steps if steps is None else steps
  whole("seed", seed, INT32.min)
  return whole("steps", steps, 1)


def whole(name: str, value: Any, low: int) -> int:
  """Returns a whole number of 32 bits that is at least `low`.

  Raises:
    ConfigError: it is another; the message calls it by `name`.
  """
  if not _is_whole(value) or not low <= value <= INT32.max:
    raise ConfigError(
      f"{name} is {value}; it must be a whole number from {low} to {INT32.max}"
    )
  return operator.index(value)


def _is_whole(value: Any) -> bool:
  """Returns whether a value is an integer, of Python, NumPy or JAX."""
  try:
    operator.index(value)
  except TypeError:
    return False
  return True


def steps_from_noise(
  sampler: SamplerState, noise: np.ndarray, steps: int | None
) -> int:
  """Returns the number of steps from given noise `[draws, N, H, W, C]`.

  None is one for each draw of a consistency model, and a diffusion model's own
  number.

  Raises:
    UserError: noise of another shape, more or fewer draws than the steps take,
      or a number of steps that is not positive.
  """
  if noise.shape[2:] != sampler.data_shape or not noise.size:
    shape = ", ".join(map(str, sampler.data_shape))
    raise UserError(
      f"noise must have the shape [draws, N, {shape}], not {list(noise.shape)}"
    )
  draws = len(noise)
  if steps is None and sampler.rules.fresh_noise:
    steps = draws
  steps = steps_and_seed(sampler, steps)
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
  guidance: float | None,
) -> None:
  """Raises UserError unless the network can edit and the arguments fit."""
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
  if isinstance(guidance, Sequence):
    raise UserError("an edit has one guidance scale; give a number")
  if start is not None and np.ndim(start):
    raise UserError("an edit starts at one time; give a number as start")
  if start is not None and not 0 < start < np.pi / 2:
    raise UserError(f"start is {start:g}, but must lie between 0 and pi/2")


def known_mask(known: editing.Known, shape: tuple[int, ...]) -> np.ndarray:
  """Returns which coefficients of each image are known, as a bool array.

  Raises:
    UserError: what is known does not fit images of this shape `[N, H, W, C]`.
  """
  images = jax.ShapeDtypeStruct(shape, jnp.float32)
  try:
    coefficients = jax.eval_shape(known.transform.forward, images)
    back = jax.eval_shape(known.transform.inverse, coefficients)
    if back.shape != shape:
      raise ValueError(f"its transform gives images {list(back.shape)} back")
    return np.broadcast_to(known.mask, coefficients.shape)
  except (TypeError, ValueError) as error:
    raise UserError(
      f"known does not fit images of the shape {list(shape)}: {error}"
    ) from error
