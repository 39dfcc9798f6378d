"""Tiny models with random weights, their exports, and their own samples."""

import dataclasses
import functools
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scm_jax import networks, sampler_programs
from scm_jax.codec import LatentCodec, PixelCodec
from scm_jax.interop import autoencoder, export
from scm_jax.networks import magnitude, presets
from scm_jax.sampler import Sampler

SMALL = {
  "resolution": 4,
  "in_channels": 1,
  "num_classes": 3,
  "channels": 8,
  "channel_mult": (1,),
  "num_blocks": 1,
  "attn_resolutions": (),
  "channels_per_head": 4,
}
DEEP = {"resolution": 8, "channel_mult": (1, 2), "attn_resolutions": (4,)}
WIDE = {"channel_mult": (2,)}  # the first level is wider than its input
NO_LABELS = {"num_classes": 0, "in_channels": 3}
# Transformers; they are of the family "dit", which no other model here names.
TOKENS = {
  "family": "dit",
  "resolution": 4,
  "in_channels": 1,
  "num_classes": 3,
  "channels": 32,
  "depth": 2,
  "patch": 1,
  "channels_per_head": 16,
}
SIT = TOKENS | presets.DIT_LAYERS | {"form": "sit", "patch": 2, "resolution": 8}
# The kind of sampler, and the network's fields.
MODELS = {
  "student": ("consistency", {"guidance": True}),
  "student-edm2": ("consistency", {"guidance": True, "form": "edm2"}),
  "unlabelled": ("consistency", NO_LABELS),
  "unlabelled-edm2": ("consistency", NO_LABELS | {"form": "edm2"}),
  "deep": ("consistency", DEEP | {"guidance": True}),
  "deep-edm2": ("consistency", DEEP | {"form": "edm2"}),
  "deep-shared": ("consistency", DEEP | NO_LABELS | {"double_norm": "shared"}),
  "deep-gained": ("consistency", DEEP | NO_LABELS | {"double_norm": "gained"}),
  "patches": ("consistency", {"in_channels": 3, "patch": 2} | WIDE),
  "latents": ("consistency", {"in_channels": 4}),
  "decoded": ("consistency", {"in_channels": 4}),
  "map": ("map", {"guidance": True, "target": True}),
  "teacher": ("diffusion", {}),
  "teacher-edm2": ("diffusion", {"form": "edm2"}),
  "teacher-dpm": ("diffusion", {}),
  "teacher-limited": ("diffusion", {"in_channels": 3}),
  "dit": ("consistency", TOKENS | {"guidance": True}),
  "dit-sit": ("consistency", SIT),
  "dit-lightning": (
    "consistency",
    TOKENS | NO_LABELS | {"modulation": "adaln"},
  ),
  "dit-plain": ("consistency", SIT | NO_LABELS | {"form": "trigflow"}),
  "dit-rotary": (
    "consistency",
    SIT | {"mlp": "swiglu", "rotary": True, "guidance": True},
  ),
  "dit-map": (
    "map",
    TOKENS | {"norm": "layer", "guidance": True, "target": True},
  ),
  "dit-teacher": ("diffusion", SIT),
}


def build(fields: dict[str, Any], seed: int) -> tuple[networks.Network, Any]:
  """A network and weights, of which none is zero."""
  fields = dict(fields)
  if fields.pop("family", "unet") == "dit":
    return build_transformer(fields, seed)
  return build_unet(fields, seed)


def build_transformer(fields, seed):
  """Weights that keep the magnitude, and scales around one."""
  network = networks.build(networks.DiTConfig(**fields))
  rng = np.random.default_rng(seed)

  def draw(path, leaf):
    drawn = rng.normal(size=leaf.shape).astype(np.float32)
    drawn *= len(leaf) ** -0.5 if leaf.ndim > 1 else 0.5
    scales = path[-1].key in ("q_scale", "k_scale")
    return jnp.asarray(1 + drawn if scales else drawn)

  return network, jax.tree_util.tree_map_with_path(draw, network.shapes)


def build_unet(fields, seed):
  """Weights on their spheres."""
  network = networks.build(networks.UNetConfig(**SMALL | fields))
  shapes = network.shapes
  rng = np.random.default_rng(seed)
  draw = lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), jnp.float32)
  params = jax.tree.map(draw, shapes)
  params["denoiser"]["out_gain"] = jnp.float32(0.5)
  eps = magnitude.EPS if network.config.form == "edm2" else 0.0
  return network, magnitude.normalize_weights(params, eps)


@pytest.fixture(scope="session")
def model_of(autoencoder_folder) -> Callable[[str], Sampler]:
  """`model_of(name)`: of `MODELS`, or a teacher's `NAME-guided`."""

  @functools.cache
  def make(name: str) -> Sampler:
    kind, fields = MODELS[name.removesuffix("-guided")]
    network, params = build(fields, seed=0)
    codec = PixelCodec(-0.2, 0.6, 0.5)
    if network.config.in_channels == 3:
      codec = PixelCodec((-0.2, 0.0, 0.1), (0.6, 0.5, 0.4), 0.5)
    if name in ("latents", "decoded"):
      codec = LatentCodec((1.0, 2.0, 0.0, -1.0), (5.0, 4.0, 3.0, 2.0), 0.5)
    second = {}
    if name.endswith("-guided"):
      smaller, theirs = build({"num_classes": 0, "channels": 4}, seed=1)
      second = {"guidance_network": smaller, "guidance_params": theirs}
    model = Sampler(network, params, codec, kind, solver_steps=4, **second)
    if kind == "map":
      return dataclasses.replace(model, gamma=0.6, t_mid=0.0)
    if name == "teacher-limited":
      limits = {"guidance_interval": (0.1, 9.0), "guidance_channels": 1}
      return dataclasses.replace(model, **limits)
    if name == "teacher-dpm":
      return dataclasses.replace(model, solver="dpm_solver")
    if name == "decoded":
      return autoencoder.attach_file(model, autoencoder_folder)
    return model

  return make


@pytest.fixture(scope="session")
def export_of(model_of, tmp_path_factory) -> Callable[..., pathlib.Path]:
  """`export_of(name, **request)`: the folder of that model's export."""
  root = tmp_path_factory.mktemp("exports")
  number = iter(range(1000))

  @functools.cache
  def write(name: str, **fields: Any) -> pathlib.Path:
    model = model_of(name)
    runs = {"consistency": "scd", "map": "ayf", "diffusion": "teacher"}
    run = runs[model.kind]
    origin = export.Origin({"run": run, "network": {}}, 7, "0.050")
    request = export.Request(**{"num": 0} | fields)
    return export.write(model, origin, root / f"{next(number)}", request)

  return write


@pytest.fixture(scope="session")
def draw() -> Callable[..., np.ndarray]:
  """`draw(model, noise, label, steps, guidance)`: the trainer's own samples.

  Noise is `[draws, B, H, W, C]`; samples are data before rounding, images in
  [-1, 1].
  """
  integrate = jax.jit(sampler_programs.integrate, static_argnums=(4, 5))

  def run(model, noise, label, steps, guidance=1.0) -> np.ndarray:
    x0, _ = integrate(
      model,
      jnp.asarray(noise),
      jnp.asarray(label),
      jnp.float32(guidance),
      steps,
      guidance != 1.0,
    )
    codec = model.codec
    return np.asarray(x0) / codec.sigma_d * codec.std + codec.mean

  return run
