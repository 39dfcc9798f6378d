"""What the configs of denoising networks have in common."""

import dataclasses
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np

from scm_jax import schema
from scm_jax.errors import ConfigError

Dtype = Any

# Fields of `NetworkConfig`, and keys of the condition: one number a sample.
ADDED_INPUTS = ("guidance", "target")
# The layers that read them, which a network may lack.
ADDED_LAYERS = frozenset(f"emb_{name}" for name in ADDED_INPUTS)
AUGMENTATIONS = 9  # numbers that say how a sample was augmented


@dataclasses.dataclass(frozen=True)
class NetworkConfig(schema.Checked):
  """What every network has, to which families add fields.

  Attributes:
    resolution: height and width of the input.
    in_channels: channels of the data.
    num_classes: labels; 0 is an unconditional network.
    guidance: whether the guidance scale is an input (Section 5.2).
    target: whether the time at which a jump ends is an input (flow maps).
    augment: whether what was done to the data is an input: the numbers of
      `data.augmentation`, zero in sampling.
    sigma_d: standard deviation of the data, by which published forms turn
      TrigFlow's time into theirs.
    form: `trigflow`, or the family's published one.
    weighting: which features the head of `w_phi` sees: `positional` ones of
      `t`, for students; or `fourier` ones of `ln sigma`, for teachers, as EDM2
      has (`networks.weighting`). Networks of EDM2's form have EDM2's head.
    dtype: the type of the computation: float32, bfloat16 or float16 (GPUs
      alone), whose gradients are scaled. The time path is float32 in any case.
    precision: how products of float32 numbers are computed, a name in JAX's
      `jax.default_matmul_precision`: `highest` is float32; `high` is three
      bfloat16 products on TPUs and TensorFloat-32 on GPUs; `default` is one
      bfloat16 product on TPUs and TensorFloat-32 on GPUs. Products of narrower
      numbers are exact and summed in float32, whatever this says.
    last_float32: how many of the last blocks compute in float32, the output's
      layer with them; 0 is none.
    attention: implementation of attention, a name in
      `attention.IMPLEMENTATIONS`.
    remat: what a block keeps for the backward pass, a name in
      `layers.POLICIES`.
  """

  resolution: int = schema.fixed()
  in_channels: int = schema.fixed()
  num_classes: int = schema.fixed(0)
  guidance: bool = schema.fixed(False)
  target: bool = schema.fixed(False)
  augment: bool = schema.fixed(False)
  sigma_d: float = schema.fixed(0.5)
  form: str = "trigflow"
  weighting: Literal["positional", "fourier"] = "positional"
  dtype: Dtype = jnp.float32
  precision: Literal["highest", "high", "default"] = "highest"
  last_float32: int = 0
  attention: Literal["einsum", "chunked"] = "einsum"
  remat: Literal["none", "full", "dots"] = "none"

  @property
  def published(self) -> bool:
    """Whether it is trained in another convention than TrigFlow's."""
    return self.form != "trigflow"

  @property
  def added_inputs(self) -> tuple[str, ...]:
    """The numbers that a student is told and its teacher need not be."""
    return tuple(n for n in ADDED_INPUTS if getattr(self, n))

  @property
  def scm_needs(self) -> dict[str, Any]:
    """Fields, with their values, without which sCM was seen to diverge."""
    return {}

  @property
  def weighting_head(self) -> str:
    """The head that `w_phi` has; EDM2's own in networks of EDM2's form."""
    return "edm2" if self.form == "edm2" else self.weighting


@dataclasses.dataclass(frozen=True)
class LevelsConfig(NetworkConfig):
  """What networks of an encoder and a decoder on several resolutions have.

  Attributes:
    channels: base width; level `i` has `channels * channel_mult[i]`.
    channel_mult: widths of the levels, each half the resolution of the last.
    channel_mult_emb: width of the embedding in units of `channels`; 0 is the
      largest of `channel_mult`.
    num_blocks: residual blocks per level (the decoder has one more).
    patch: side of the squares of pixels that the network sees as one pixel with
      more channels, so that a small network affords a larger image.
    attn_resolutions: sides at which blocks attend.
    channels_per_head: width of an attention head.
    dropout: probability.
    dropout_resolution: largest side at which dropout acts (Section G.2: 16).
  """

  channels: int = 192
  channel_mult: tuple[int, ...] = (1, 2, 3, 4)
  channel_mult_emb: int = 0
  num_blocks: int = 3
  patch: int = 1
  attn_resolutions: tuple[int, ...] = (16, 8)
  channels_per_head: int = 64
  dropout: float = 0.0
  dropout_resolution: int = 16

  def __post_init__(self) -> None:
    """Raises ConfigError for values that make no network."""
    super().__post_init__()
    for name in ("channels", "channels_per_head", "num_blocks", "channel_mult"):
      value = getattr(self, name)
      if not value or np.min(value) < 1:
        raise ConfigError(f"{name} is {value}; it must be positive")
    if not 0 <= self.dropout < 1:
      raise ConfigError(
        f"dropout is {self.dropout}; it is a probability below 1"
      )
    if self.patch < 1 or self.resolution % self.patch:
      raise ConfigError(
        f"patch is {self.patch}, but the data's size of {self.resolution} "
        "cannot be divided into patches of that side"
      )
    levels = len(self.channel_mult)
    side = self.resolution // self.patch
    if side % (1 << (levels - 1)):
      raise ConfigError(
        f"channel_mult has {levels} levels, but the network's side of {side} "
        f"cannot be halved {levels - 1} times"
      )

  @property
  def sides(self) -> tuple[int, ...]:
    """The height and width of the features at each level, largest first."""
    side = self.resolution // self.patch
    return tuple(side >> level for level in range(len(self.channel_mult)))

  @property
  def blocks(self) -> tuple[str, ...]:
    """The names of the encoder's and the decoder's blocks, first to last."""
    names = []
    for side in self.sides:
      names += [f"enc_{side}_down"] if side != self.sides[0] else []
      names += [f"enc_{side}_{i}" for i in range(self.num_blocks)]
    for side in reversed(self.sides):
      first = ("in0", "in1") if side == self.sides[-1] else ("up",)
      parts = (*first, *range(self.num_blocks + 1))
      names += [f"dec_{side}_{part}" for part in parts]
    return tuple(names)

  def dtypes(self) -> dict[str, Dtype]:
    """Returns the type that each block computes in, by name, first to last."""
    wide = jnp.promote_types(self.dtype, jnp.float32)
    early = len(self.blocks) - self.last_float32
    return {
      name: self.dtype if i < early else wide
      for i, name in enumerate(self.blocks)
    }

  @property
  def output_dtype(self) -> Dtype:
    """The type that the layer after the last block computes in."""
    return self.dtypes()[self.blocks[-1]]

  @property
  def embedding_channels(self) -> int:
    """Width of the embedding of time and condition."""
    return self.channels * (self.channel_mult_emb or max(self.channel_mult))
