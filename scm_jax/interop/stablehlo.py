"""Samplers as StableHLO programs that jax alone loads and runs.

A program is a file of `jax.export`, for any batch size and for CPUs, GPUs and
TPUs. Its arguments are the parameters (a flat dict, as `model.safetensors` has
them; of a model with an autoencoder, a second one, as `vae/` has it; absent if
they are baked in), then

- `*_noise`: unit noise `[draws, B, H, W, C]` float32,
- `*_seed`: a seed and the samples' numbers, `[]` and `[B]` int32; the same
  images as `scm-jax sample` draws,

then labels `[B]` int32 (the number of classes is "no label") and the guidance
scale `[]` float32. The results are images, uint8 `[B, H, W, C]`, and the data
they come from, float32: images in [-1, 1], or the latents that the autoencoder
decodes.
"""

import functools
import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import jax
import jax.export
import jax.numpy as jnp
from flax import traverse_util
from jax import Array

from scm_jax import samplers
from scm_jax.errors import ConfigError
from scm_jax.interop import autoencoder, export_folder
from scm_jax.model import Model

PLATFORMS = ("cpu", "cuda", "tpu")
LIMIT = (
  2**31 - 2**20
)  # bytes; a file is a flatbuffer, whose offsets are 32 bits


class Program(NamedTuple):
  """A serialised sampler.

  Attributes:
    name: its file's name, without the ending.
    data: the file.
    about: what it takes and gives, in JSON's types.
  """

  name: str
  data: bytes
  about: dict[str, Any]


def programs(
  model: Model, params: Any, steps: Iterable[int], *, baked: bool = False
) -> Iterator[Program]:
  """All programs of a model.

  Args:
    model: its parameters are not used, but for its autoencoder's.
    params: in the types in which they are stored.
    steps: of the samplers, one or more.
    baked: whether programs hold the parameters.

  Raises:
    ConfigError: too many parameters to bake in.
  """
  size = sum(leaf.nbytes for leaf in jax.tree.leaves(_files(model, params)))
  if baked and size > LIMIT:
    raise ConfigError(
      f"--bake: a program holds less than 2 GiB and the parameters are "
      f"{size / 2**30:.1f} GiB; leave --bake out, or choose a narrower --dtype"
    )
  guidable = not model.consistency and (
    model.guide is not None or model.network.config.num_classes > 0
  )
  guided, noise = (False, True) if guidable else (False,), (True, False)
  for n, g, z in itertools.product(steps, guided, noise):
    yield program(model, params, n, guided=g, noise=z, baked=baked)


def program(
  model: Model,
  params: Any,
  steps: int,
  *,
  guided: bool = False,
  noise: bool = True,
  baked: bool = False,
) -> Program:
  """One of `programs`.

  Args:
    model: as there, like `params` and `baked`.
    params: in the types in which they are stored.
    steps: of the sampler.
    guided: whether a teacher is guided; students are always.
    noise: whether it starts from noise, or from a seed.
    baked: whether it holds the parameters.
  """
  draw = _draw(model, steps, guided) if noise else _seeded(model, steps, guided)
  arguments = _arguments(model, steps, noise)
  files = _files(model, params)
  draw = functools.partial(_unpack, draw, files if baked else tuple(files))
  if not baked:
    of = lambda v: jax.ShapeDtypeStruct(v.shape, v.dtype)
    given = {name: jax.tree.map(of, file) for name, file in files.items()}
    arguments = given | arguments
  exported = jax.export.export(jax.jit(draw), platforms=PLATFORMS)(
    *arguments.values()
  )
  start = "noise" if noise else "seed"
  name = f"sample_{steps}{'_guided' if guided else ''}_{start}"
  about = {
    "file": f"{name}.jaxexport",
    "steps": steps,
    "evaluations": model.evaluations(steps, 2.0 if guided else 1.0),
    "guided": guided or model.network.config.guidance,
    "arguments": [_shown(k, v) for k, v in arguments.items()],
    "results": [
      _shown(k, v)
      for k, v in zip(("images", "data"), exported.out_avals, strict=True)
    ],
    "platforms": list(exported.platforms),
    "calling_convention_version": exported.calling_convention_version,
    "jax": jax.__version__,
  }
  return Program(name, bytes(exported.serialize()), about)


_FILES = {
  "params": export_folder.WEIGHTS,
  "autoencoder": f"{export_folder.AUTOENCODER}/{autoencoder.WEIGHTS}",
}


def _files(model: Model, params: Any) -> dict[str, dict[str, Any]]:
  """A model's tensors, by the names of `_FILES` and then as the files do."""
  files = {"params": export_folder.flatten(params)}
  if autoencoder.of(model):
    files["autoencoder"] = autoencoder.params_to_tensors(model.decoder)
  return files


def _unpack(draw, files, *arguments):
  """`draw(files, ...)`, whose files are baked in, or the first arguments."""
  if isinstance(files, dict):
    return draw(files, *arguments)
  n = len(files)
  files = dict(zip(files, arguments[:n], strict=True))
  return draw(files, *arguments[n:])


def _draw(model: Model, steps: int, guided: bool) -> Callable[..., Any]:
  """`(files, noise, label, guidance) -> (images, data)`."""
  draw = model.sampler(steps, unguided=not guided)
  network = autoencoder.of(model)

  def program(files, noise, label, guidance):
    # Rounded once, where they are stored; the network decides what it
    # computes in.
    wide = {name: v.astype(jnp.float32) for name, v in files["params"].items()}
    params = traverse_util.unflatten_dict(wide, sep="/")
    x0 = draw(params, noise, label, guidance)
    decoder = None
    if network:
      tensors = files["autoencoder"]
      decoder = autoencoder.params_from_tensors(network, tensors)
    return model.codec.decode(x0, decoder), restore(model, x0)

  return program


def restore(model: Model, x0: Array) -> Array:
  """`x0` to data before scaling: images in [-1, 1], or latents."""
  codec = model.codec
  mean, std = (jnp.asarray(v, jnp.float32) for v in (codec.mean, codec.std))
  return x0 / codec.sigma_d * std + mean


def _seeded(model: Model, steps: int, guided: bool) -> Callable[..., Any]:
  """`(files, seed, index, label, guidance) -> (images, data)`."""
  draw = _draw(model, steps, guided)
  shape, draws = _sample_shape(model), model.draws(steps)

  def program(files, seed, index, label, guidance):
    noise = samplers.draw_noise(seed, index, draws, shape)
    return draw(files, noise, label, guidance)

  return program


def _sample_shape(model: Model) -> tuple[int, int, int]:
  config = model.network.config
  return config.resolution, config.resolution, config.in_channels


def _arguments(model: Model, steps: int, noise: bool) -> dict[str, Any]:
  (batch,) = jax.export.symbolic_shape("b")
  of = jax.ShapeDtypeStruct
  draws = model.draws(steps), batch, *_sample_shape(model)
  start = (
    {"noise": of(draws, jnp.float32)}
    if noise
    else {"seed": of((), jnp.int32), "index": of((batch,), jnp.int32)}
  )
  condition = {
    "label": of((batch,), jnp.int32),
    "guidance": of((), jnp.float32),
  }
  return start | condition


def _shown(name: str, spec: Any) -> dict[str, Any]:
  if isinstance(spec, dict):
    return {"name": name, "file": _FILES[name]}
  shape = [d if isinstance(d, int) else str(d) for d in spec.shape]
  return {"name": name, "shape": shape, "dtype": jnp.dtype(spec.dtype).name}
