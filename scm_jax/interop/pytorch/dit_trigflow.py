"""The transformer of an exported sCM, for inference in PyTorch.

This file needs torch and safetensors, and nothing of the trainer. It is a
diffusion transformer with the layers of DiT (arXiv 2212.09748), LightningDiT
(arXiv 2501.01423) or those that sCM needs, in two forms: `sit`, as SiT trains
it (arXiv 2401.08740), and `trigflow`. In both, the network takes TrigFlow's
time and returns TrigFlow's output:

    dit = DiTTrigFlow.from_pretrained("unet")
    t = torch.full((4,), math.atan(80 / dit.sigma_d))  # radians
    z = torch.randn(4, *dit.shape) * dit.sigma_d
    F = dit(z / dit.sigma_d, t, label=torch.tensor([0, 1, 2, 3]))
    x0 = torch.cos(t[0]) * z - torch.sin(t[0]) * dit.sigma_d * F  # one step

Parameters have the names of SiT's and LightningDiT's code.
"""

import json
import os

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

CONFIG, WEIGHTS = "config.json", "diffusion_pytorch_model.safetensors"
TIMES = 256  # sinusoids of the time
ADDED = {"guidance": 1.0, "target": 0.0}  # inputs, and what None stands for


def normalized(x: Tensor, norm: str) -> Tensor:
  """Normalises over channels in float32; `layer` subtracts their mean first."""
  wide = x.float()
  if norm == "layer":
    wide = wide - wide.mean(-1, keepdim=True)
  rms = (wide.square().mean(-1, keepdim=True) + 1e-6).sqrt()
  return (wide / rms).to(x.dtype)


def modulate(x: Tensor, shift: Tensor, scale: Tensor, config: dict) -> Tensor:
  """Normalises tokens `[B, L, C]` and applies an embedding's vectors `[B, C]`.

  The scale acts from 1 on; double normalisation normalises both vectors, too.
  """
  scale = scale + 1
  if config["modulation"] == "double":
    unit = lambda v: v / (1e-4 + v.square().mean(-1, keepdim=True).sqrt())
    shift, scale = unit(shift), unit(scale)
  per_token = lambda v: v[:, None].to(x.dtype)
  return normalized(x, config["norm"]) * per_token(scale) + per_token(shift)


def waves(count: int, device: torch.device) -> Tensor:
  """Returns angular frequencies, falling from 1 to almost 1 / 10,000."""
  steps = torch.arange(count, dtype=torch.float32, device=device)
  return 10_000.0 ** (-steps / count)


def sinusoids(x: Tensor) -> Tensor:
  """Maps numbers `[B]` to `[B, TIMES]`, cosines first."""
  angles = x[:, None] * waves(TIMES // 2, x.device)
  return torch.cat([angles.cos(), angles.sin()], dim=-1)


def turns(side: int, width: int, device: torch.device) -> tuple[Tensor, Tensor]:
  """Returns cosines and sines of a head's angles, `[side * side, width / 2]`.

  The first half turns with a token's row, the second with its column.
  """
  angles = torch.arange(side, device=device)[:, None] * waves(
    width // 4, device
  )
  rows = angles[:, None].expand(side, side, -1)
  angles = torch.cat([rows, rows.transpose(0, 1)], dim=-1).flatten(0, 1)
  return angles.cos(), angles.sin()


def rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
  """Rotates pairs of channels of `[B, heads, L, width]`."""
  a, b = x.float().unflatten(-1, (-1, 2)).unbind(-1)
  turned = torch.stack([a * cos - b * sin, a * sin + b * cos], dim=-1)
  return turned.flatten(-2).to(x.dtype)


class Linear(nn.Linear):
  """Dense layer in its input's type."""

  def forward(self, input: Tensor) -> Tensor:
    bias = None if self.bias is None else self.bias.to(input.dtype)
    return functional.linear(input, self.weight.to(input.dtype), bias)


class HeadNorm(nn.Module):
  """Normalises the channels of a head, and scales them."""

  def __init__(self, width: int):
    super().__init__()
    self.weight = nn.Parameter(torch.empty(width))

  def forward(self, x: Tensor) -> Tensor:
    return normalized(x, "rms") * self.weight.to(x.dtype)


class Attention(nn.Module):
  """Self-attention over tokens."""

  def __init__(self, config: dict):
    super().__init__()
    channels, self.width = config["channels"], config["channels_per_head"]
    self.qkv = Linear(channels, 3 * channels)
    norm = HeadNorm if config["qk_norm"] else nn.Identity
    self.q_norm, self.k_norm = norm(self.width), norm(self.width)
    self.proj = Linear(channels, channels)

  def forward(self, x: Tensor, angles: tuple[Tensor, Tensor] | None) -> Tensor:
    qkv = self.qkv(x).unflatten(-1, (3, -1, self.width))
    q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
    q, k = self.q_norm(q), self.k_norm(k)
    if angles:
      q, k = rotated(q, *angles), rotated(k, *angles)
    y = functional.scaled_dot_product_attention(q, k, v)
    return self.proj(y.transpose(1, 2).flatten(2))


class MLP(nn.Module):
  """DiT's layers of each token by itself."""

  def __init__(self, channels: int):
    super().__init__()
    self.fc1 = Linear(channels, 4 * channels)
    self.fc2 = Linear(4 * channels, channels)

  def forward(self, x: Tensor) -> Tensor:
    return self.fc2(functional.gelu(self.fc1(x), approximate="tanh"))


class SwiGLU(nn.Module):
  """LightningDiT's layers of each token by itself."""

  def __init__(self, channels: int):
    super().__init__()
    hidden = -(-8 * channels // 96) * 32  # a multiple of 32
    self.w12 = Linear(channels, 2 * hidden)
    self.w3 = Linear(hidden, channels)

  def forward(self, x: Tensor) -> Tensor:
    a, b = self.w12(x).chunk(2, dim=-1)
    return self.w3(functional.silu(a) * b)


class Modulation(nn.Sequential):
  """Maps the embedding to a number of vectors `[B, C]`, in float32."""

  def __init__(self, channels: int, count: int):
    super().__init__(nn.SiLU(), Linear(channels, count * channels))
    self.count = count

  def forward(self, input: Tensor) -> tuple[Tensor, ...]:
    return super().forward(input).chunk(self.count, dim=-1)


class Block(nn.Module):
  """Attention, and what each token computes by itself."""

  def __init__(self, config: dict):
    super().__init__()
    self.config = config
    self.attn = Attention(config)
    mlp = MLP if config["mlp"] == "gelu" else SwiGLU
    self.mlp = mlp(config["channels"])
    self.adaLN_modulation = Modulation(config["channels"], 6)

  def forward(self, x: Tensor, emb: Tensor, angles) -> Tensor:
    c, vectors = self.config, self.adaLN_modulation(emb)
    shift, scale, gate = vectors[:3]
    y = self.attn(modulate(x, shift, scale, c), angles)
    x = x + gate[:, None].to(x.dtype) * y
    shift, scale, gate = vectors[3:]
    y = self.mlp(modulate(x, shift, scale, c))
    return x + gate[:, None].to(x.dtype) * y


class Patches(nn.Conv2d):
  """Maps squares of pixels to tokens `[B, L, C]`."""

  def forward(self, input: Tensor) -> Tensor:
    x = functional.pixel_unshuffle(input, self.kernel_size[0])
    x = x.flatten(2).transpose(1, 2)
    # A product, because GPUs round a convolution's factors by default.
    assert self.bias is not None
    return functional.linear(x, self.weight.flatten(1), self.bias.to(x.dtype))


class PatchEmbedder(nn.Module):
  """Holds the layer of patches under the name that it has in SiT's code."""

  def __init__(self, config: dict):
    super().__init__()
    inputs, patch = config["in_channels"], config["patch"]
    self.proj = Patches(inputs, config["channels"], patch, stride=patch)

  def forward(self, x: Tensor) -> Tensor:
    return self.proj(x)


class DiTTrigFlow(nn.Module):
  """The transformer as a function of `(x_t / sigma_d, t, label, guidance)`.

  Args:
    config: the content of the folder's `config.json`.
  """

  def __init__(self, config: dict):
    super().__init__()
    self.config: dict = config
    c, channels = config, config["channels"]
    self.side = c["resolution"] // c["patch"]
    self.x_embedder = PatchEmbedder(c)
    layers = Linear(TIMES, channels), nn.SiLU(), Linear(channels, channels)
    self.t_embedder = nn.ModuleDict({"mlp": nn.Sequential(*layers)})
    for name in ADDED:
      if c[name]:
        layer = Linear(TIMES, channels, bias=False)
        self.add_module(f"{name}_embedder", layer)
    if c["num_classes"]:
      table = nn.Embedding(c["num_classes"] + 1, channels)  # and no label
      self.y_embedder = nn.ModuleDict({"embedding_table": table})
    # The sinusoids that are added to tokens, which SiT's files hold.
    self.register_buffer("pos_embed", torch.empty(1, self.side**2, channels))
    self.blocks = nn.ModuleList(Block(c) for _ in range(c["depth"]))
    modulation = Modulation(channels, 2)
    linear = Linear(channels, c["in_channels"] * c["patch"] ** 2)
    self.final_layer = nn.ModuleDict(
      {"adaLN_modulation": modulation, "linear": linear}
    )
    self.requires_grad_(False)

  @classmethod
  def from_pretrained(
    cls,
    folder: str | os.PathLike,
    torch_dtype: torch.dtype | None = None,
    dtype: torch.dtype | None = None,
    **unused,
  ) -> "DiTTrigFlow":
    """Loads a network from the folder of `config.json` and the weights.

    Args:
      folder: the folder `unet` of an export.
      torch_dtype: the type of the weights and of the computation; None is the
        stored one. Vectors stay in float32, which `.to(dtype)` would round.
      dtype: the same, by the name that diffusers prefers.
      **unused: further options of diffusers, which have no effect.
    """
    with open(os.path.join(folder, CONFIG)) as stream:
      config = json.load(stream)
    with torch.device("meta"):
      dit = cls(config)
    state = load_file(os.path.join(folder, WEIGHTS))
    if kept := torch_dtype or dtype:
      state = {n: v.to(kept) if v.ndim > 1 else v for n, v in state.items()}
    dit.load_state_dict(state, assign=True)
    return dit.requires_grad_(False).eval()

  @property
  def dtype(self) -> torch.dtype:
    """The type of the computation; the time path is in float32."""
    return self.x_embedder.proj.weight.dtype

  @property
  def device(self) -> torch.device:
    """The device that the weights are on."""
    return self.x_embedder.proj.weight.device

  @property
  def sigma_d(self) -> float:
    """The standard deviation of the data."""
    return self.config["sigma_d"]

  @property
  def shape(self) -> tuple[int, int, int]:
    """The shape `(C, H, W)` of one sample."""
    side = self.config["resolution"]
    return self.config["in_channels"], side, side

  def forward(
    self,
    x: Tensor,
    t: Tensor,
    label: Tensor | None = None,
    guidance: Tensor | None = None,
    target: Tensor | None = None,
  ) -> Tensor:
    """Returns TrigFlow's `F`, `[B, C, H, W]` float32.

    Args:
      x: the scaled noisy sample `x_t / sigma_d`, `[B, C, H, W]`.
      t: the time in radians, `[B]` float32.
      label: classes `[B]`; `num_classes`, or None, means no label.
      guidance: the guidance scale `[B]`, for a network that takes it; None is
        1.
      target: the time at which the jump ends, radians `[B]`, for a flow map;
        None is 0.
    """
    t, added = t.float(), {"guidance": guidance, "target": target}
    if self.config["form"] != "sit":
      return self.transform(x, self.embed(t, label, added))
    # SiT's time runs from noise to data, whose velocity is its output.
    u, sine, cosine = x.float(), t.sin(), t.cos()
    r = 1 / (sine + cosine)
    per_pixel = lambda v: v[:, None, None, None]
    emb = self.embed(r * cosine, label, added)
    velocity = self.transform(per_pixel(r) * u, emb)
    return per_pixel(r) * (per_pixel(cosine - sine) * u - velocity)

  def embed(
    self, t: Tensor, label: Tensor | None, added: dict[str, Tensor | None]
  ) -> Tensor:
    """Maps time, label and added inputs to one float32 vector a sample."""
    first, act, second = self.t_embedder["mlp"].children()
    emb = first(sinusoids(t))
    for name, default in ADDED.items():
      if self.config[name]:
        given = added[name]
        value = torch.full_like(t, default) if given is None else given.float()
        layer = self.get_submodule(f"{name}_embedder")
        emb = emb + layer(sinusoids(value))
    emb = second(act(emb))
    if classes := self.config["num_classes"]:
      if label is None:
        label = torch.full_like(t, classes, dtype=torch.long)
      emb = emb + self.y_embedder["embedding_table"](label).float()
    return emb

  def transform(self, x: Tensor, emb: Tensor) -> Tensor:
    """Returns the tokens' last layer by pixels, `[B, C, H, W]` float32."""
    c, angles = self.config, None
    if c["rotary"]:
      angles = turns(self.side, c["channels_per_head"], x.device)
    x = self.x_embedder(x.to(self.dtype))
    x = x + self.pos_embed.to(x.dtype)
    for i, block in enumerate(self.blocks):
      if i >= c["depth"] - c["last_float32"]:
        x = x.float()
      x = block(x, emb, angles)
    shift, scale = self.final_layer["adaLN_modulation"](emb)
    x = modulate(x, shift, scale, c)
    x = self.final_layer["linear"](x).float()
    # Rows, columns, and of a patch its rows, columns and channels.
    x = x.unflatten(2, (c["patch"], c["patch"], -1))
    x = x.unflatten(1, (self.side, self.side)).permute(0, 5, 1, 3, 2, 4)
    return x.flatten(4).flatten(2, 3)
