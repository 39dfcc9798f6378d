"""Samplers as StableHLO programs, which jax alone loads and runs.

A program is a file of `jax.export`, for any batch size and for CPUs, GPUs and
TPUs. Its arguments are, in order:

- the parameters, a flat dict as `model.safetensors` holds it; for a sampler
  with an autoencoder a second dict, as `vae/` holds it. A program into which
  the parameters were baked takes neither.
- for `*_noise` programs, unit noise `[draws, B, H, W, C]` float32; for `*_seed`
  programs, a seed `[]` and the samples' numbers `[B]`, both int32. These draw
  the images of `scm-jax sample`.
- labels `[B]` int32; the number of classes stands for "no label".
- the guidance scale `[]` float32.

The results are images, uint8 `[B, H, W, C]`, and the data that they come from,
float32: images in [-1, 1], or the latents that the autoencoder decodes.
"""

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import jax
import jax.export
import jax.numpy as jnp
from flax import traverse_util
from jax import Array

from scm_jax import codec as codecs
from scm_jax import sampler_programs, samplers
from scm_jax.errors import ConfigError
from scm_jax.interop import autoencoder, export_folder
from scm_jax.sampler import Sampler

PLATFORMS = ("cpu", "cuda", "tpu")
# Bytes: a file is a flatbuffer, whose offsets have 32 bits.
LIMIT = 2**31 - 2**20


class Program(NamedTuple):
  """A file's content, and its name, arguments and results in JSON's types."""

  data: bytes
  description: dict[str, Any]


class Variant(NamedTuple):
  """One of the programs of a sampler.

  A diffusion model is guided at twice the evaluations. Networks that take the
  scale as an input always are.
  """

  steps: int
  guided: bool = False
  noise: bool = True  # whether it starts from noise, or from a seed


def programs(
  sampler: Sampler, steps: Iterable[int], *, baked: bool = False
) -> Iterator[Program]:
  """Yields all programs of a sampler, some for each number of steps.

  The sampler's parameters have the types in which they are stored; `baked`
  programs hold them.

  Raises:
    ConfigError: the parameters are too large to be baked in.
  """
  size = sum(leaf.nbytes for leaf in jax.tree.leaves(_files(sampler)))
  if baked and size > LIMIT:
    raise ConfigError(
      f"--bake: a program holds less than 2 GiB and the parameters are "
      f"{size / 2**30:.1f} GiB; leave --bake out, or choose a narrower --dtype"
    )
  guidable = sampler.extrapolates(2.0) and not sampler.guidance_refusal()
  guided = (False, True) if guidable else (False,)
  for variant in itertools.product(steps, guided, (True, False)):
    yield program(sampler, Variant(*variant), baked=baked)


def program(
  sampler: Sampler, variant: Variant, *, baked: bool = False
) -> Program:
  """Exports one program; see `programs`."""
  files = _files(sampler)
  draw = _function(sampler, variant)
  arguments = _arguments(sampler, variant)
  if baked:
    call = lambda *rest: draw(files, *rest)
  else:

    def call(*given):
      tensors = dict(zip(files, given, strict=False))
      return draw(tensors, *given[len(files) :])

    spec = lambda v: jax.ShapeDtypeStruct(v.shape, v.dtype)
    # Each file by itself, because mapping over a dict sorts its names.
    shapes = {name: jax.tree.map(spec, file) for name, file in files.items()}
    arguments = shapes | arguments
  export = jax.export.export(jax.jit(call), platforms=PLATFORMS)
  exported = export(*arguments.values())
  results = zip(("images", "data"), exported.out_avals, strict=True)
  start = "noise" if variant.noise else "seed"
  guided, guidance = ("_guided", 2.0) if variant.guided else ("", 1.0)
  description = {
    "file": f"sample_{variant.steps}{guided}_{start}.jaxexport",
    "steps": variant.steps,
    "evaluations": sampler.evaluations(variant.steps, guidance),
    "guided": variant.guided or sampler.network.config.guidance,
    "arguments": [_describe(*item) for item in arguments.items()],
    "results": [_describe(*item) for item in results],
    "platforms": list(exported.platforms),
    "calling_convention_version": exported.calling_convention_version,
    "jax": jax.__version__,
  }
  return Program(bytes(exported.serialize()), description)


_FILES = {
  "params": export_folder.WEIGHTS,
  "autoencoder": f"{export_folder.AUTOENCODER}/{autoencoder.WEIGHTS}",
}


def _files(sampler: Sampler) -> dict[str, dict[str, Any]]:
  """Returns the tensors of the files of parameters, by name in `_FILES`."""
  files = {"params": export_folder.flatten(sampler.weights)}
  if autoencoder.attached(sampler):
    files["autoencoder"] = autoencoder.params_to_tensors(sampler.decoder)
  return files


def _function(
  sampler: Sampler, variant: Variant
) -> Callable[..., tuple[Array, Array]]:
  """Returns `draw(files, *start, label, guidance) -> (images, data)`."""
  network, codec = autoencoder.attached(sampler), sampler.codec

  def draw(files, *arguments):
    *start, label, guidance = arguments
    noise = start[0]
    if not variant.noise:
      seed, index = start
      draws = sampler.noise_draws(variant.steps)
      noise = samplers.draw_noise(seed, index, draws, sampler.data_shape)
    # Parameters were rounded once, for storage; the network decides what type
    # it computes in.
    wide = {name: v.astype(jnp.float32) for name, v in files["params"].items()}
    bound = sampler.with_weights(traverse_util.unflatten_dict(wide, sep="/"))
    if network:
      decoder = autoencoder.params_from_tensors(network, files["autoencoder"])
      bound = dataclasses.replace(bound, decoder=decoder)
    x0, _ = sampler_programs.integrate(
      bound, noise, label, guidance, variant.steps, variant.guided
    )
    images = codec.decode(x0, bound.decoder)
    return images, codecs.restore(codec, x0)

  return draw


def _arguments(sampler: Sampler, variant: Variant) -> dict[str, Any]:
  """Returns the shapes and types of all arguments but the parameters."""
  (batch,) = jax.export.symbolic_shape("b")
  spec = jax.ShapeDtypeStruct
  draws = sampler.noise_draws(variant.steps)
  noise = {"noise": spec((draws, batch, *sampler.data_shape), jnp.float32)}
  seed = {"seed": spec((), jnp.int32), "index": spec((batch,), jnp.int32)}
  return (noise if variant.noise else seed) | {
    "label": spec((batch,), jnp.int32),
    "guidance": spec((), jnp.float32),
  }


def _describe(name: str, spec: Any) -> dict[str, Any]:
  if isinstance(spec, dict):
    return {"name": name, "file": _FILES[name]}
  shape = [d if isinstance(d, int) else str(d) for d in spec.shape]
  return {"name": name, "shape": shape, "dtype": jnp.dtype(spec.dtype).name}
