"""The U-Net of an exported sCM, for inference in PyTorch.

This file needs torch and safetensors, and nothing of the trainer. It is EDM2's
U-Net (arXiv 2312.02696, config G) in two forms: `edm2`, as published, and
`trigflow`, as changed by sCM (arXiv 2410.11081, Section 4.1). In both, the
network takes TrigFlow's time and returns TrigFlow's output:

    unet = UNetTrigFlow.from_pretrained("unet")
    t = torch.full((4,), math.atan(80 / unet.sigma_d))  # radians
    z = torch.randn(4, *unet.shape) * unet.sigma_d
    F = unet(z / unet.sigma_d, t, label=torch.tensor([0, 1, 2, 3]))
    x0 = torch.cos(t[0]) * z - torch.sin(t[0]) * unet.sigma_d * F  # one step

Parameters have the names of EDM2's own PyTorch network. Its weights are already
normalised: unlike EDM2's code, the forward pass normalises none.
"""

import json
import math
import os

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

CONFIG, WEIGHTS = "config.json", "diffusion_pytorch_model.safetensors"


def normalize(x: Tensor, dim: int) -> Tensor:
  """Divides by the root mean square over `dim`, which is taken in float32."""
  wide = x.float()
  rms = wide.square().mean(dim, keepdim=True).sqrt()
  return (wide / (1e-4 + rms)).to(x.dtype)


def silu(x: Tensor) -> Tensor:
  """Applies the magnitude-preserving SiLU."""
  return functional.silu(x) / 0.596


def add(a: Tensor, b: Tensor, balance: float) -> Tensor:
  """Returns the magnitude-preserving weighted sum of `a` and `b`."""
  return torch.lerp(a, b, balance) / math.hypot(1 - balance, balance)


def concatenate(a: Tensor, b: Tensor, balance: float) -> Tensor:
  """Concatenates the channels of `a` and `b`, preserving their magnitude."""
  n_a, n_b = a.shape[1], b.shape[1]
  scale = math.sqrt(n_a + n_b) / math.hypot(1 - balance, balance)
  a = a * (scale * (1 - balance) / math.sqrt(n_a))
  b = b * (scale * balance / math.sqrt(n_b))
  return torch.cat([a, b], dim=1)


def positional_features(x: Tensor, features: int) -> Tensor:
  """Maps scalars `[B]` to sinusoids `[B, features]` of unit magnitude."""
  half = features // 2
  steps = torch.arange(half, dtype=torch.float32, device=x.device)
  angles = x[:, None] * 10_000.0 ** (-steps / (half - 1))
  return torch.cat([angles.cos(), angles.sin()], dim=-1) * math.sqrt(2)


class Linear(nn.Module):
  """Magnitude-preserving dense layer or convolution, in its input's type."""

  def __init__(self, inputs: int, outputs: int, *kernel: int):
    super().__init__()
    self.weight = nn.Parameter(torch.empty(outputs, inputs, *kernel))

  def forward(self, x: Tensor, gain: Tensor | float = 1.0) -> Tensor:
    weight = self.weight.to(x.dtype)
    x = x * (gain / math.sqrt(weight[0].numel()))
    if weight.ndim == 2:
      return functional.linear(x, weight)
    return functional.conv2d(x, weight, padding=weight.shape[-1] // 2)


class Fourier(nn.Module):
  """Random Fourier features of a scalar, of unit magnitude; in radians."""

  def __init__(self, features: int):
    super().__init__()
    self.register_buffer("freqs", torch.empty(features))
    self.register_buffer("phases", torch.empty(features))

  def forward(self, x: Tensor) -> Tensor:
    angles = x[:, None] * self.freqs.float() + self.phases.float()
    return angles.cos() * math.sqrt(2)


class Block(nn.Module):
  """A residual block; decoder blocks normalise and skip differently."""

  def __init__(self, config, inputs, outputs, decoder, mode, attention):
    super().__init__()
    self.config, self.decoder, self.mode = config, decoder, mode
    width = config["emb_channels"]
    normalized = config["form"] == "trigflow"
    self.split = normalized and config["double_norm"] == "split"
    self.gained = normalized and config["double_norm"] == "gained"
    self.emb_linear = Linear(width, outputs * (2 if self.split else 1))
    if not self.split:
      self.emb_gain = nn.Parameter(torch.empty(()))
    if self.gained:
      self.emb_scale_gain = nn.Parameter(torch.empty(()))
      self.emb_shift_gain = nn.Parameter(torch.empty(()))
    between = inputs if decoder else outputs
    self.conv_res0 = Linear(between, outputs, 3, 3)
    self.conv_res1 = Linear(outputs, outputs, 3, 3)
    self.conv_skip = (
      Linear(inputs, outputs, 1, 1) if inputs != outputs else None
    )
    self.heads = 0
    if attention:
      self.heads = max(1, outputs // config["channels_per_head"])
      self.attn_qkv = Linear(outputs, 3 * outputs, 1, 1)
      self.attn_proj = Linear(outputs, outputs, 1, 1)

  def forward(self, x: Tensor, emb: Tensor) -> Tensor:
    c = self.config
    if self.mode == "down":
      x = functional.avg_pool2d(x, 2)
    elif self.mode == "up":
      x = functional.interpolate(x, scale_factor=2.0, mode="nearest")
    skip = x if self.conv_skip is None else self.conv_skip(x)
    if not self.decoder:
      x = skip = normalize(skip, dim=1)
    y = self.conv_res0(silu(x))
    y = self.conv_res1(silu(self.modulate(y, emb)))
    x = add(skip, y, c["res_balance"])
    if self.heads:
      x = add(x, self.attend(x), c["attn_balance"])
    return x.clamp(-c["clip_act"], c["clip_act"])

  def modulate(self, y: Tensor, emb: Tensor) -> Tensor:
    """Applies the embedding: a gain, or adaptive double normalisation."""
    per_pixel = lambda v: v[:, :, None, None].to(y.dtype)
    if self.split:
      scale, shift = self.emb_linear(emb).chunk(2, dim=1)
    else:
      shift = self.emb_linear(emb)
      scale = self.emb_gain.float() * shift + 1
    if self.config["form"] == "edm2":
      return y * per_pixel(scale)
    scale, shift = normalize(scale, dim=1), normalize(shift, dim=1)
    if self.gained:
      scale = scale * self.emb_scale_gain.float()
      shift = shift * self.emb_shift_gain.float()
    return normalize(y, dim=1) * per_pixel(scale) + per_pixel(shift)

  def attend(self, x: Tensor) -> Tensor:
    """Attends over pixels, with normalised queries, keys and values."""
    batch, channels, height, width = x.shape
    shape = batch, self.heads, channels // self.heads, 3, height * width
    qkv = normalize(self.attn_qkv(x).reshape(shape), dim=2)
    q, k, v = (y.transpose(-1, -2) for y in qkv.unbind(3))
    y = functional.scaled_dot_product_attention(q, k, v)
    return self.attn_proj(y.transpose(-1, -2).reshape(x.shape))


def to_patches(x: Tensor, side: int) -> Tensor:
  """Turns squares of pixels into channels, the image's channels fastest."""
  batch, features, height, width = x.shape
  x = x.reshape(batch, features, height // side, side, width // side, side)
  x = x.permute(0, 3, 5, 1, 2, 4)
  return x.reshape(batch, -1, height // side, width // side)


def from_patches(x: Tensor, side: int) -> Tensor:
  """Turns channels back into squares of pixels."""
  batch, features, height, width = x.shape
  x = x.reshape(batch, side, side, features // side**2, height, width)
  x = x.permute(0, 3, 4, 1, 5, 2)
  return x.reshape(batch, -1, height * side, width * side)


class UNetTrigFlow(nn.Module):
  """The U-Net as a function of `(x_t / sigma_d, t, label, guidance)`.

  Args:
    config: the content of the folder's `config.json`.
  """

  def __init__(self, config: dict):
    super().__init__()
    self.config: dict = {"patch": 1, **config}
    c = self.config
    widths = [c["channels"] * mult for mult in c["channel_mult"]]
    emb = c["channels"] * (c["channel_mult_emb"] or max(c["channel_mult"]))
    c["emb_channels"] = emb
    if c["form"] == "edm2":
      self.emb_fourier = Fourier(c["channels"])
    self.emb_noise = Linear(c["channels"], emb)
    if c["guidance"]:
      self.emb_guidance = nn.Linear(c["channels"], emb, bias=False)
    if c.get("target"):
      self.emb_target = nn.Linear(c["channels"], emb, bias=False)
    if c["num_classes"]:
      self.emb_label = Linear(c["num_classes"], emb)
    self.enc, skips = self._encoder(widths)
    self.dec = self._decoder(widths, skips)
    self.out_gain = nn.Parameter(torch.empty(()))
    out = c["in_channels"] * c["patch"] ** 2
    self.out_conv = Linear(widths[0], out, 3, 3)
    self.requires_grad_(False)

  def _encoder(self, widths):
    c, blocks, skips = self.config, nn.ModuleDict(), []
    now = c["in_channels"] * c["patch"] ** 2 + 1
    for level, width in enumerate(widths):
      side = c["resolution"] // c["patch"] >> level
      attention = side in c["attn_resolutions"]
      if level == 0:
        blocks[f"{side}x{side}_conv"] = Linear(now, c["channels"], 3, 3)
        now = c["channels"]
      else:
        block = Block(c, now, now, False, "down", False)
        blocks[f"{side}x{side}_down"] = block
      skips.append(now)
      for i in range(c["num_blocks"]):
        block = Block(c, now, width, False, "keep", attention)
        blocks[f"{side}x{side}_block{i}"] = block
        now = width
        skips.append(now)
    return blocks, skips

  def _decoder(self, widths, skips):
    c, blocks, now = self.config, nn.ModuleDict(), widths[-1]
    for level, width in reversed(list(enumerate(widths))):
      side = c["resolution"] // c["patch"] >> level
      attention = side in c["attn_resolutions"]
      if level == len(widths) - 1:
        blocks[f"{side}x{side}_in0"] = Block(c, now, now, True, "keep", True)
        blocks[f"{side}x{side}_in1"] = Block(c, now, now, True, "keep", False)
      else:
        blocks[f"{side}x{side}_up"] = Block(c, now, now, True, "up", False)
      for i in range(c["num_blocks"] + 1):
        block = Block(c, now + skips.pop(), width, True, "keep", attention)
        blocks[f"{side}x{side}_block{i}"] = block
        now = width
    return blocks

  @classmethod
  def from_pretrained(
    cls,
    folder: str | os.PathLike,
    torch_dtype: torch.dtype | None = None,
    dtype: torch.dtype | None = None,
    **unused,
  ) -> "UNetTrigFlow":
    """Loads a network from the folder of `config.json` and the weights.

    Args:
      folder: the folder `unet` of an export.
      torch_dtype: the type of the weights and of the computation; None is the
        stored one. Scalars and Fourier frequencies stay in float32, which
        `.to(dtype)` would round, too.
      dtype: the same, by the name that diffusers prefers.
      **unused: further options of diffusers, which have no effect.
    """
    with open(os.path.join(folder, CONFIG)) as stream:
      config = json.load(stream)
    with torch.device("meta"):
      unet = cls(config)
    state = load_file(os.path.join(folder, WEIGHTS))
    if kept := torch_dtype or dtype:
      state = {n: v.to(kept) if v.ndim > 1 else v for n, v in state.items()}
    unet.load_state_dict(state, assign=True)
    return unet.requires_grad_(False).eval()

  @property
  def dtype(self) -> torch.dtype:
    """The type of the computation; the time's embedding is in float32."""
    return self.out_conv.weight.dtype

  @property
  def device(self) -> torch.device:
    """The device that the weights are on."""
    return self.out_conv.weight.device

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
    added = {"guidance": guidance, "target": target}
    emb = self.embed(t.float(), label, added)
    x = to_patches(x.to(self.dtype), self.config["patch"])
    x = torch.cat([x, torch.ones_like(x[:, :1])], dim=1)
    skips = []
    for name, block in self.enc.items():
      x = block(x) if name.endswith("_conv") else block(x, emb)
      skips.append(x)
    for name, block in self.dec.items():
      if "_block" in name:
        x = concatenate(x, skips.pop(), self.config["concat_balance"])
      x = block(x, emb)
    out = self.out_conv(x, self.out_gain.float()).float()
    out = from_patches(out, self.config["patch"])
    # EDM's output has the other sign.
    return -out if self.config["form"] == "edm2" else out

  def embed(
    self, t: Tensor, label: Tensor | None, added: dict[str, Tensor | None]
  ) -> Tensor:
    """Maps time, label and added inputs to one float32 vector a sample."""
    c = self.config
    if c["form"] == "edm2":
      noise = self.emb_fourier((c["sigma_d"] * t.tan()).log() / 4)
    else:
      noise = positional_features(t, c["channels"])
    emb = self.emb_noise(noise)
    for name, default in (("guidance", 1.0), ("target", 0.0)):
      if c.get(name):
        given = added[name]
        value = torch.full_like(t, default) if given is None else given.float()
        features = positional_features(value, c["channels"])
        weight = getattr(self, f"emb_{name}").weight
        emb = emb + functional.linear(features, weight.float())
    if c["num_classes"]:
      if label is None:
        label = torch.full_like(t, c["num_classes"], dtype=torch.long)
      classes = torch.arange(c["num_classes"], device=t.device)
      one_hot = (label[:, None] == classes).float()
      label_emb = self.emb_label(one_hot * math.sqrt(c["num_classes"]))
      emb = add(emb, label_emb, c["label_balance"])
    return silu(emb)
