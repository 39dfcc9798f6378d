"""The EDM2 U-Net (arXiv 2312.02696, config G) and its TrigFlow form.

The two forms share all code and differ in what sCM changes (arXiv 2410.11081,
Section 4.1): the time embedding (random Fourier features of EDM's log noise
level, or positional features of `t`), and how the embedding modulates a block
(`y * (gain s + 1)`, or adaptive double normalisation).

Arrays are `[B, H, W, C]`. The time path is float32; the rest is computed in
`dtype`, and the output is float32.
"""

import dataclasses
from typing import Any, Literal

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from scm_jax import schema
from scm_jax.compilation import stored
from scm_jax.networks import folding, layers, magnitude
from scm_jax.networks.attention import attend
from scm_jax.networks.config import LevelsConfig
from scm_jax.networks.family import Family, Forms


@dataclasses.dataclass(frozen=True)
class UNetConfig(LevelsConfig):
  """What a U-Net is made of; names and defaults follow EDM2's config G.

  Attributes:
    label_balance, concat_balance, res_balance, attn_balance: weights of the
      second argument in magnitude-preserving sums and concatenations.
    clip_act: bound on the activations after each block.
    form: `trigflow`, sCM's; or `edm2`, the published one.
    double_norm: where the `trigflow` form takes scale and shift from: `split`,
      the halves of a linear layer of twice EDM2's width; `shared`, EDM2's own
      layer, so that the form has as many parameters as EDM2; or `gained`, the
      same with two learnt gains a block, of the scale from 1 and of the shift
      from 0 on, so that EDM2's networks can be taken over (see
      `interop.imitation`).
  """

  label_balance: float = schema.fixed(0.5)
  concat_balance: float = schema.fixed(0.5)
  res_balance: float = schema.fixed(0.3)
  attn_balance: float = schema.fixed(0.3)
  clip_act: float = schema.fixed(256.0)
  form: Literal["trigflow", "edm2"] = "trigflow"
  double_norm: Literal["split", "shared", "gained"] = "split"

  @property
  def splits_modulation(self) -> bool:
    """Whether scale and shift are the halves of one linear layer."""
    return self.form == "trigflow" and self.double_norm == "split"


_JOINED = "modulations"  # the blocks' layers in folded parameters


class Embedding(nn.Module):
  """Time, label and guidance to one vector per sample, float32."""

  config: UNetConfig

  @nn.compact
  def __call__(self, t: Array, cond: dict[str, Array]) -> Array:
    c = self.config
    if c.form == "edm2":
      noise = layers.FourierFeatures(c.channels, name="fourier")(t)
    else:
      noise = layers.positional_features(t, c.channels)
    width = c.embedding_channels
    # float32, or float64 where a test asks for it: never narrower.
    linear = lambda name: layers.Linear(width, dtype=t.dtype, name=name)
    emb = linear("emb_noise")(noise)
    for name in c.added_inputs:
      features = layers.positional_features(cond[name], c.channels)
      # Starts at zero: the student begins as its teacher, whatever the input.
      zeros = nn.initializers.zeros
      emb += nn.Dense(
        width,
        use_bias=False,
        kernel_init=zeros,
        name=f"emb_{name}",
        dtype=t.dtype,
      )(features)
    if c.num_classes:
      label = layers.one_hot_label(cond["label"], c.num_classes)
      label = linear("emb_label")(label.astype(t.dtype))
      emb = magnitude.add(emb, label, c.label_balance)
    return magnitude.silu(emb)


class Modulation(nn.Module):
  """How the embedding acts on a block's features.

  Called with the features, and with the embedding or with the block's scale and
  shift where folded weights have given those of all blocks at once.
  """

  config: UNetConfig

  @nn.compact
  def __call__(self, y: Array, emb: Array | tuple[Array, Array]) -> Array:
    c = self.config
    features = y.shape[-1]
    per_pixel = lambda v: v[:, None, None, :].astype(y.dtype)
    # y = norm(x) * pnorm(s(t)) + pnorm(b(t)) (Section 4.1).
    if isinstance(emb, tuple):
      scale, shift = emb
    elif c.splits_modulation:
      both = layers.Linear(2 * features, dtype=emb.dtype, name="emb")(emb)
      scale, shift = _halves(both)
    else:
      gain = self.param("gain", nn.initializers.zeros, ())
      shift = layers.Linear(features, dtype=emb.dtype, name="emb")(emb)
      scale = gain * shift + 1
      if c.form == "edm2":
        return y * per_pixel(scale)
      scale, shift = magnitude.pixel_norm(scale), magnitude.pixel_norm(shift)
      if c.double_norm == "gained":
        scale *= self.param("scale_gain", nn.initializers.ones, ())
        shift *= self.param("shift_gain", nn.initializers.zeros, ())
    return magnitude.pixel_norm(y) * per_pixel(scale) + per_pixel(shift)


def _halves(both: Array) -> tuple[Array, Array]:
  """Returns the scale and the shift, `[..., C]`, of a layer `[..., 2 C]`."""
  scale, shift = jnp.split(both, 2, axis=-1)
  return magnitude.pixel_norm(scale), magnitude.pixel_norm(shift)


class Attention(nn.Module):
  """Self-attention over pixels with normalised q, k and v (EDM2, B.2)."""

  config: UNetConfig

  @nn.compact
  def __call__(self, x: Array) -> Array:
    c = self.config
    batch, height, width, features = x.shape
    heads = max(1, features // c.channels_per_head)
    qkv = layers.Linear(3 * features, (1, 1), c.dtype, name="qkv")(x)
    qkv = qkv.reshape(batch, height * width, heads, features // heads, 3)
    qkv = magnitude.normalize(qkv, axis=-2)
    q, k, v = (qkv[..., i] for i in range(3))
    y = attend(q, k, v, c.attention)
    y = y.reshape(x.shape)
    y = layers.Linear(features, (1, 1), c.dtype, name="proj")(y)
    return magnitude.add(x, y, c.attn_balance)


class Block(nn.Module):
  """One residual block of the encoder or the decoder (EDM2, Figure 21).

  Attributes:
    config: of the network.
    features: output channels.
    decoder: encoder blocks normalise their input, and skip before the residual
      branch; decoder blocks skip around it.
    mode: `keep`, `down` or `up`.
    attention: whether the block attends at its end.
  """

  config: UNetConfig
  features: int
  decoder: bool = False
  mode: str = "keep"
  attention: bool = False

  @nn.compact
  def __call__(
    self, x: Array, emb: Array | tuple[Array, Array], train: bool
  ) -> Array:
    """Maps features; `emb` is what `Modulation` takes."""
    c = self.config
    conv = lambda name, kernel: layers.Linear(
      self.features, kernel, c.dtype, name=name
    )
    x = x.astype(c.dtype)
    x = layers.resample(x, self.mode)
    skip = x
    if x.shape[-1] != self.features:
      skip = conv("skip", (1, 1))(x)
    if not self.decoder:
      x = skip = magnitude.pixel_norm(skip)

    y = conv("conv0", (3, 3))(magnitude.silu(x))
    y = Modulation(c, name="modulation")(y, emb)
    y = magnitude.silu(y)
    if c.dropout and y.shape[1] <= c.dropout_resolution:
      y = nn.Dropout(c.dropout, deterministic=not train)(y)
    y = conv("conv1", (3, 3))(y)
    x = magnitude.add(skip, y, c.res_balance)
    if self.attention:
      x = Attention(c, name="attention")(x)
    return stored(jnp.clip(x, -c.clip_act, c.clip_act))


class UNet(nn.Module):
  """`F(x, t, cond)`: `[B, H, W, C]` and `[B]` to `[B, H, W, C]` float32.

  In the `trigflow` form `t` is TrigFlow's time in radians; in the `edm2` form
  it is EDM's `c_noise = ln(sigma) / 4`.
  """

  config: UNetConfig

  @nn.compact
  def __call__(
    self, x: Array, t: Array, cond: dict[str, Array], train: bool = False
  ) -> Array:
    c = self.config
    wide = jnp.promote_types(x.dtype, jnp.float32)
    emb = Embedding(c, name="embedding")(t.astype(wide), cond)
    x = layers.to_patches(x.astype(c.dtype), c.patch)
    # The constant channel takes the place of biases.
    x = jnp.concatenate([x, jnp.ones_like(x[..., :1])], axis=-1)

    modulations = self._modulations(emb)
    Residual = layers.rematerialized(Block, c)
    dtypes = c.dtypes()

    def block(name, x, features, **kwargs):
      config = dataclasses.replace(c, dtype=dtypes[name])
      decoder = name.startswith("dec_")
      run = Residual(config, features, decoder, name=name, **kwargs)
      return run(x, modulations.get(name, emb), train)

    x = layers.Linear(c.channels, (3, 3), c.dtype, name="conv_in")(x)
    join = lambda x, skip: magnitude.concatenate(x, skip, c.concat_balance)
    x = layers.through_levels(c, x, block, join)
    gain = self.param("out_gain", nn.initializers.zeros, ())
    features = c.in_channels * c.patch**2
    out = layers.Linear(features, (3, 3), c.output_dtype, name="conv_out")
    return layers.from_patches(out(x, gain).astype(wide), c.patch)

  def _modulations(self, emb: Array) -> dict[str, tuple[Array, Array]]:
    """Returns the blocks' scales and shifts, if folding joined their layers."""
    found = {}
    for joined in (self.get_variable("params", _JOINED) or {}).values():
      scale, shift = _halves(joined.apply(emb))
      for i, name in enumerate(joined.names):
        found[name] = scale[:, i], shift[:, i]
    return found


def fold(config: UNetConfig, params: Any, platform: str, batch: int) -> Any:
  """Returns the U-Net's parameters as its layers read them when it samples.

  A `batch` is that of one device.
  """
  side_of = {name: int(name.split("_")[1]) for name in config.blocks}
  dtypes = config.dtypes() | {"conv_in": config.dtype}
  dtypes |= {"conv_out": config.output_dtype}

  def ready(path: tuple[str, ...], leaf: Array) -> Array | folding.Folded:
    if path[-1] != magnitude.WEIGHT:
      return leaf
    gain = params["out_gain"] if path[0] == "conv_out" else 1.0
    weight = layers.scaled(leaf, leaf.shape, gain)
    # The time path is float32.
    if path[0] in dtypes and "modulation" not in path:
      weight = weight.astype(dtypes[path[0]])
    side = side_of.get(path[0], config.sides[0])
    return folding.ordered(weight, platform, batch * side**2)

  params = folding.folded(params, ready)
  joins = platform in folding.GPUS and config.splits_modulation
  if not joins or _JOINED in params:
    return params
  weights = {n: params[n]["modulation"]["emb"]["weight"] for n in config.blocks}
  blocks = {
    name: {k: v for k, v in params[name].items() if k != "modulation"}
    for name in config.blocks
  }
  return {**params, **blocks, _JOINED: folding.joined(weights)}


FAMILY = Family(
  UNetConfig,
  UNet,
  magnitude.SPHERE,
  Forms(
    time_layers=frozenset({"emb_noise", "fourier"}),
    modulation=frozenset({"modulation"}),
    sign=("denoiser", "out_gain"),
  ),
  fold,
)
