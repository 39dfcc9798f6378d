"""The published networks, as fields of `config.network`.

Neither the form nor anything of a run's own (dropout, type, memory) is set:

    config.network.update(presets.EDM2["s"])
"""


def _edm2(channels: int) -> dict:
  """EDM2's U-Net of a base width; all sizes share the rest (config G)."""
  return {
    "family": "unet",
    "channels": channels,
    "channel_mult": (1, 2, 3, 4),
    "channel_mult_emb": 4,
    "num_blocks": 3,
    "attn_resolutions": (16, 8),
    "channels_per_head": 64,
  }


# Widths: arXiv 2312.02696, Table 2 and Appendix B.1; XXS is the authors' code's
# alone. Beside them, millions of parameters of the `edm2` form.
EDM2 = {
  "xxs": _edm2(64),  # 31.3
  "xs": _edm2(128),  # 124.7
  "s": _edm2(192),  # 280.2
  "m": _edm2(256),  # 497.8
  "l": _edm2(320),  # 777.5
  "xl": _edm2(384),  # 1119.3
  "xxl": _edm2(448),  # 1523.2
}

# DDPM++ as EDM trains it on CIFAR-10 (arXiv 2206.00364, Table 7); 55.7 M in the
# `edm` form. One attention head as wide as the level; dropout at every side.
DDPMPP = {
  "family": "ddpmpp",
  "channels": 128,
  "channel_mult": (2, 2, 2),
  "channel_mult_emb": 4,
  "num_blocks": 4,
  "attn_resolutions": (16,),
  "channels_per_head": 256,
  "dropout_resolution": 32,
}


def _dit(channels: int, depth: int, channels_per_head: int = 64) -> dict:
  """A transformer of patches of 2x2."""
  return {
    "family": "dit",
    "channels": channels,
    "depth": depth,
    "channels_per_head": channels_per_head,
    "patch": 2,
  }


# Sizes: DiT (arXiv 2212.09748, Table 1). Beside them, millions of parameters
# with its layers.
DIT = {
  "s": _dit(384, 12),  # 32.9
  "b": _dit(768, 12),  # 130.3
  "l": _dit(1024, 24),  # 457.8
  "xl": _dit(1152, 28, 72),  # 674.8
}

# The layers of DiT, SiT and MeanFlow. Those of LightningDiT are the defaults of
# the family with `modulation="adaln"`.
DIT_LAYERS = {
  "norm": "layer",
  "mlp": "gelu",
  "rotary": False,
  "qk_norm": False,
  "modulation": "adaln",
}
