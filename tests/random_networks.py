"""Fixtures: networks of random weights, which tests of several rooms share."""

import io
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest


@pytest.fixture(scope="session")
def random_weights() -> Callable:
  """`random_weights(shapes, seed, dtype)`: of order one, and none is zero."""
  import jax
  import jax.numpy as jnp

  def draw(shapes: Any, seed: int = 0, dtype: Any = jnp.float32) -> Any:
    rng = np.random.default_rng(seed)
    normal = lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), dtype)
    return jax.tree.map(normal, shapes)

  return draw


@pytest.fixture(scope="session")
def tiny_sampler(random_weights) -> Callable:
  """`tiny_sampler(kind)`: of images of 4x4, by default grey, in 3 classes."""
  import jax.numpy as jnp

  from scm_jax import networks
  from scm_jax.codec import PixelCodec
  from scm_jax.networks import magnitude
  from scm_jax.sampler import Sampler

  def build(kind: str, in_channels: int = 1) -> Sampler:
    config = networks.UNetConfig(
      resolution=4,
      in_channels=in_channels,
      num_classes=3,
      channels=8,
      channel_mult=(1,),
      num_blocks=1,
      attn_resolutions=(),
      guidance=kind == "consistency",
    )
    network = networks.build(config)
    params = magnitude.normalize_weights(random_weights(network.shapes))
    params["denoiser"]["out_gain"] = jnp.float32(0.5)
    return Sampler(network, params, PixelCodec(-0.2, 0.5, 0.5), kind)

  return build


@pytest.fixture(scope="session")
def student(tiny_sampler):
  return tiny_sampler("consistency")


@pytest.fixture(scope="session")
def teacher(tiny_sampler):
  return tiny_sampler("diffusion")


@pytest.fixture(scope="session")
def autoencoder_folder(
  tmp_path_factory: pytest.TempPathFactory,
) -> pathlib.Path:
  """A tiny autoencoder's folder: random weights, none trivial; a factor of 4.

  Its file is `diffusion_pytorch_model.safetensors`.
  """
  import jax

  from scm_jax.interop import autoencoder
  from scm_jax.networks.autoencoder import AutoencoderConfig, build

  network = build(AutoencoderConfig((8, 16, 16), blocks=1, groups=4))
  rng = np.random.default_rng(0)

  def draw(leaf: Any) -> np.ndarray:
    scale = 1 / np.sqrt(np.prod(leaf.shape[:-1])) if leaf.ndim > 1 else 0.3
    mean = 0.0 if leaf.ndim > 1 else 0.5
    return (mean + scale * rng.normal(size=leaf.shape)).astype(np.float32)

  params = jax.tree.map(draw, network.shapes)
  folder = tmp_path_factory.mktemp("autoencoder")
  autoencoder.write(folder, network, params)
  return folder


@pytest.fixture(scope="session")
def draw_inception() -> Callable[[float], dict[str, np.ndarray]]:
  """`draw_inception(width)`: tensors of order one by torchvision's names.

  The width is in sixteenths of the real one.
  """
  from scm_jax.metrics import inception

  def draw(width: float) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    normal = lambda *shape: rng.standard_normal(shape, np.float32)
    found = {}
    for name, (*taps, features) in inception.shapes(width).items():
      if name == "fc":
        found["fc.weight"] = 0.05 * normal(features, *taps)
        found["fc.bias"] = normal(features)
        continue
      height, breadth, features_in = taps
      weight = normal(features, features_in, height, breadth)
      found[f"{name}.conv.weight"] = weight * np.sqrt(2 / np.prod(taps))
      found[f"{name}.bn.weight"] = 1 + 0.3 * normal(features)
      found[f"{name}.bn.bias"] = 0.3 * normal(features)
      found[f"{name}.bn.running_mean"] = 0.3 * normal(features)
      found[f"{name}.bn.running_var"] = np.exp(0.3 * normal(features))
    return {name: np.asarray(t, np.float32) for name, t in found.items()}

  return draw


@pytest.fixture(scope="session")
def inception_file(
  draw_inception: Callable, tmp_path_factory: pytest.TempPathFactory
) -> pathlib.Path:
  """A safetensors file of an Inception with random weights, 128 features."""
  from scm_jax.interop import safetensors

  data = io.BytesIO()
  safetensors.write(data, draw_inception(1 / 16))
  path = tmp_path_factory.mktemp("inception") / "inception.safetensors"
  path.write_bytes(data.getvalue())
  return path
