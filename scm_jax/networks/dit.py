"""Diffusion transformers (DiT, arXiv 2212.09748), and their TrigFlow form.

The fields of the config lead from DiT, which SiT (arXiv 2401.08740) and
MeanFlow (arXiv 2505.13447) train too, to LightningDiT (arXiv 2501.01423); and
to what sCM needs of a network: normalised queries and keys, and adaptive double
normalisation (arXiv 2410.11081, Section 4.1). The time is told by sinusoids
whose highest frequency is 1, so that the derivative by it stays bounded in both
forms.

Weights are free. Arrays are `[B, H, W, C]` outside and `[B, L, C]` inside, a
token for each patch. The time path and all statistics are float32; the rest is
computed in `dtype`, and the output is float32.
"""

import dataclasses
from typing import Any, Literal

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from scm_jax import trigflow
from scm_jax.compilation import stored
from scm_jax.errors import ConfigError
from scm_jax.networks import folding, layers, magnitude
from scm_jax.networks.attention import attend
from scm_jax.networks.config import Dtype, NetworkConfig
from scm_jax.networks.family import Family, Forms

EPS = 1e-6
TIMES = 256  # sinusoids of the time
THETA = 10_000.0  # the longest wave, of times and of places, over 2 pi
_SMALL = nn.initializers.normal(0.02)
_ZEROS = nn.initializers.zeros


@dataclasses.dataclass(frozen=True)
class DiTConfig(NetworkConfig):
  """What a transformer is made of; the defaults are DiT-S/2 as sCM needs it.

  Attributes:
    form: `trigflow`, whose time is `t`; or `sit`, the published network of SiT,
      which gives a rectified flow's velocity.
    channels: width of a token.
    depth: number of blocks.
    patch: side of the squares of pixels that are a token each.
    channels_per_head: width of an attention head.
    norm: `layer`, as in DiT, or `rms`, as in LightningDiT; neither has weights
      of its own, which the modulation has in any case.
    mlp: the layer between two products: `gelu` of four times the width, as in
      DiT; or `swiglu` of about as many parameters, as in LightningDiT.
    rotary: whether queries and keys are rotated by the places of their tokens,
      as in LightningDiT, besides the sinusoids that are added to all tokens.
    qk_norm: whether queries and keys have unit magnitude, times a learnt weight
      for each channel of a head. Without it gradients of large students
      explode (arXiv 2503.09641).
    modulation: how the embedding acts on a block: `adaln`, by a scale from 1
      and a shift from 0 on, as in DiT; or `double`, both of which are
      normalised, as in sCM.
  """

  form: Literal["trigflow", "sit"] = "trigflow"
  channels: int = 384
  depth: int = 12
  patch: int = 2
  channels_per_head: int = 64
  norm: Literal["layer", "rms"] = "rms"
  mlp: Literal["gelu", "swiglu"] = "swiglu"
  rotary: bool = True
  qk_norm: bool = True
  modulation: Literal["adaln", "double"] = "double"

  def __post_init__(self) -> None:
    """Raises ConfigError for values that make no network."""
    super().__post_init__()
    for name in ("channels", "depth", "patch", "channels_per_head"):
      if getattr(self, name) < 1:
        raise ConfigError(
          f"{name} is {getattr(self, name)}; it must be 1 or more"
        )
    if self.resolution % self.patch:
      raise ConfigError(
        f"patch is {self.patch}, but the data's size of {self.resolution} "
        "cannot be divided into patches of that side"
      )
    if self.channels % self.channels_per_head:
      raise ConfigError(
        f"channels is {self.channels}, which cannot be divided into heads of "
        f"channels_per_head={self.channels_per_head}"
      )
    # Sines and cosines of rows and columns.
    for name in ("channels", "channels_per_head"):
      if getattr(self, name) % 4:
        raise ConfigError(
          f"{name} is {getattr(self, name)}; it must be a multiple of 4"
        )

  @property
  def scm_needs(self) -> dict[str, Any]:
    """Students of digits diverged without one of them (docs/configs.md)."""
    return {"norm": "rms", "qk_norm": True, "modulation": "double"}

  @property
  def side(self) -> int:
    """Tokens in a row, and in a column."""
    return self.resolution // self.patch

  @property
  def hidden(self) -> int:
    """Width between the two products of a block's last part."""
    if self.mlp == "gelu":
      return 4 * self.channels
    # A multiple of 32, for which devices have fast products.
    return -(-8 * self.channels // 96) * 32

  def dtypes(self) -> tuple[Dtype, ...]:
    """Returns the type that each block computes in, first to last."""
    wide = jnp.promote_types(self.dtype, jnp.float32)
    early = self.depth - self.last_float32
    return tuple(self.dtype if i < early else wide for i in range(self.depth))


def normalized(x: Array, norm: str) -> Array:
  """Normalises each token over its channels, in float32 at least.

  `layer` subtracts their mean first, `rms` does not.
  """
  wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
  if norm == "layer":
    wide -= wide.mean(-1, keepdims=True)
  rms = jnp.sqrt(jnp.mean(jnp.square(wide), -1, keepdims=True) + EPS)
  return (wide / rms).astype(x.dtype)


def _waves(count: int) -> Array:
  """Returns angular frequencies, falling from 1 to almost `1 / THETA`."""
  return THETA ** (-jnp.arange(count, dtype=jnp.float32) / count)


def sinusoids(x: Array) -> Array:
  """Computes DiT's features of numbers `[B]`, `[B, TIMES]`, cosines first."""
  angles = x[:, None] * _waves(TIMES // 2).astype(x.dtype)
  return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)


def positions(side: int, channels: int) -> Array:
  """Computes the sinusoids of a square of tokens, `[side * side, channels]`.

  The first half is of a token's column and the second of its row; of each, the
  sines come first. Tokens are in the order of rows.
  """
  angles = jnp.arange(side)[:, None] * _waves(channels // 4)
  line = jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)
  columns = jnp.broadcast_to(line[None], (side, *line.shape))
  both = jnp.concatenate([columns, columns.swapaxes(0, 1)], axis=-1)
  return both.reshape(side * side, channels)


def rotations(side: int, width: int) -> Array:
  """Computes the angles of each token's pairs of channels, `[L, width / 2]`.

  The first half of a head turns with the row, the second with the column.
  """
  angles = jnp.arange(side)[:, None] * _waves(width // 4)
  rows = jnp.broadcast_to(angles[:, None], (side, side, width // 4))
  angles = jnp.concatenate([rows, rows.swapaxes(0, 1)], axis=-1)
  return angles.reshape(side * side, width // 2)


def rotated(x: Array, side: int) -> Array:
  """Rotates pairs of channels of `[B, L, heads, d]` by the tokens' places.

  Products of two rotated vectors depend on the distance of their tokens.
  """
  angles = rotations(side, x.shape[-1])[:, None]  # for all heads
  wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
  a, b = wide[..., ::2], wide[..., 1::2]
  cos, sin = jnp.cos(angles), jnp.sin(angles)
  turned = jnp.stack([a * cos - b * sin, a * sin + b * cos], axis=-1)
  return turned.reshape(x.shape).astype(x.dtype)


class Embedding(nn.Module):
  """Time, label and guidance to one vector per sample, float32."""

  config: DiTConfig

  @nn.compact
  def __call__(self, t: Array, cond: dict[str, Array]) -> Array:
    c = self.config
    # float32, or float64 where a test asks for it: never narrower.
    dense = lambda name, init=_SMALL, **kwargs: layers.Dense(
      c.channels, t.dtype, init, name=name, **kwargs
    )
    emb = dense("emb_noise")(sinusoids(t))
    for name in c.added_inputs:
      # Starts at zero: the student begins as its teacher, whatever the input.
      told = dense(f"emb_{name}", _ZEROS, bias=False)
      emb += told(sinusoids(cond[name].astype(t.dtype)))
    emb = dense("emb_hidden")(nn.silu(emb))
    if c.num_classes:
      shape = (c.num_classes + 1, c.channels)  # the last is "no label"
      emb += self.param("emb_label", _SMALL, shape)[cond["label"]]
    return nn.silu(emb)


class Modulation(nn.Module):
  """Computes vectors `[B, 1, channels]` from the embedding, float32.

  Attributes:
    config: of the network.
    names: of the vectors: `shift`, `scale` and `gate`, which may repeat. Gates
      start at zero.
  """

  config: DiTConfig
  names: tuple[str, ...]

  @nn.compact
  def __call__(self, emb: Array) -> list[Array]:
    c = self.config
    double = c.modulation == "double"

    def init(key: Array, shape: tuple[int, int]) -> Array:
      """Draws the part of normalised shifts, whose zero has no direction."""
      drawn = layers.XAVIER(key, shape)
      drawn = drawn.reshape(shape[0], len(self.names), c.channels)
      shifts = jnp.array([double and name == "shift" for name in self.names])
      return jnp.where(shifts[:, None], drawn, 0).reshape(shape)

    width = len(self.names) * c.channels
    vectors = layers.Dense(width, emb.dtype, init, name="emb")(emb)
    vectors = jnp.split(vectors[:, None], len(self.names), axis=-1)
    return [self._vector(*x) for x in zip(self.names, vectors, strict=True)]

  def _vector(self, name: str, vector: Array) -> Array:
    """Returns a scale that starts at 1, and the others as they are used."""
    vector = vector + 1 if name == "scale" else vector
    if self.config.modulation == "double" and name != "gate":
      return magnitude.pixel_norm(vector)
    return vector


class Attention(nn.Module):
  """Self-attention over tokens."""

  config: DiTConfig

  @nn.compact
  def __call__(self, x: Array) -> Array:
    c = self.config
    dense = lambda width, name: layers.Dense(width, c.dtype, name=name)
    heads = c.channels // c.channels_per_head
    qkv = dense(3 * c.channels, "qkv")(x)
    # q, k and v one after another, each by heads.
    qkv = qkv.reshape(*x.shape[:2], 3, heads, c.channels_per_head)
    q, k, v = (qkv[:, :, i] for i in range(3))
    if c.qk_norm:
      q, k = self._normalized(q, "q_scale"), self._normalized(k, "k_scale")
    if c.rotary:
      q, k = rotated(q, c.side), rotated(k, c.side)
    y = attend(q, k, v, c.attention)
    return dense(c.channels, "proj")(y.reshape(x.shape))

  def _normalized(self, x: Array, name: str) -> Array:
    """Normalises the channels of each head, and scales them."""
    scale = self.param(name, nn.initializers.ones, x.shape[-1:])
    return normalized(x, "rms") * scale.astype(x.dtype)


class MLP(nn.Module):
  """Two products with a non-linear layer between them, for each token."""

  config: DiTConfig

  @nn.compact
  def __call__(self, x: Array) -> Array:
    c = self.config
    dense = lambda width, name: layers.Dense(width, c.dtype, name=name)
    if c.mlp == "gelu":
      y = nn.gelu(dense(c.hidden, "fc1")(x), approximate=True)
    else:
      a, b = jnp.split(dense(2 * c.hidden, "fc1")(x), 2, axis=-1)
      y = nn.silu(a) * b
    return dense(c.channels, "fc2")(y)


class Block(nn.Module):
  """One block: attention, and what each token computes by itself."""

  config: DiTConfig

  @nn.compact
  def __call__(self, x: Array, emb: Array, train: bool) -> Array:
    """Maps tokens `[B, L, channels]`."""
    del train  # there is no dropout
    c = self.config
    x = x.astype(c.dtype)
    names = ("shift", "scale", "gate") * 2
    vectors = Modulation(c, names, name="modulation")(emb)
    vectors = [vector.astype(c.dtype) for vector in vectors]
    parts = Attention(c, name="attention"), MLP(c, name="mlp")
    for part, of_part in zip(parts, (vectors[:3], vectors[3:]), strict=True):
      shift, scale, gate = of_part
      x = x + gate * part(normalized(x, c.norm) * scale + shift)
    return stored(x)


class DiT(nn.Module):
  """`F(x, t, cond)`: `[B, H, W, C]` and `[B]` to `[B, H, W, C]` float32.

  In the `trigflow` form `t` is TrigFlow's time in radians; in the `sit` form it
  is SiT's, from 0 (noise) to 1 (data).
  """

  config: DiTConfig

  @nn.compact
  def __call__(
    self, x: Array, t: Array, cond: dict[str, Array], train: bool = False
  ) -> Array:
    c = self.config
    wide = jnp.promote_types(x.dtype, jnp.float32)
    emb = Embedding(c, name="embedding")(t.astype(wide), cond)
    Residual = layers.rematerialized(Block, c)
    dtypes = c.dtypes()

    x = layers.to_patches(x, c.patch)
    x = x.reshape(x.shape[0], c.side**2, -1)
    x = layers.Dense(c.channels, c.dtype, name="patches")(x)
    x = x + positions(c.side, c.channels).astype(x.dtype)
    for i, dtype in enumerate(dtypes):
      config = dataclasses.replace(c, dtype=dtype)
      x = Residual(config, name=f"block_{i}")(x, emb, train)
    shift, scale = Modulation(c, ("shift", "scale"), name="modulation")(emb)
    x = normalized(x, c.norm) * scale.astype(x.dtype) + shift.astype(x.dtype)
    features = c.in_channels * c.patch**2
    x = layers.Dense(features, dtypes[-1], _ZEROS, name="out")(x)
    x = x.astype(wide).reshape(x.shape[0], c.side, c.side, features)
    return layers.from_patches(x, c.patch)


def fold(config: DiTConfig, params: Any, platform: str, batch: int) -> Any:
  """Returns parameters in the types that their layers compute in."""
  del platform, batch  # products read any order
  dtypes = config.dtypes()
  of_part = {f"block_{i}": dtype for i, dtype in enumerate(dtypes)}
  of_part |= {"patches": config.dtype, "out": dtypes[-1]}

  def ready(path: tuple[str, ...], leaf: Array) -> Array:
    if path[-1] != magnitude.WEIGHT or "modulation" in path:
      return leaf  # the time path is float32
    return leaf.astype(of_part.get(path[0], leaf.dtype))

  return folding.folded(params, ready)


FAMILY = Family(
  DiTConfig,
  DiT,
  forms=Forms(
    convert=trigflow.network_from_sit,
    added=frozenset({"q_scale", "k_scale"}),
    same=("norm", "mlp", "rotary", "qk_norm", "modulation")
    + ("channels_per_head",),
  ),
  fold=fold,
)
