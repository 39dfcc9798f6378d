"""An export as something that draws images, and as files.

    config.json        what the network is, how to sample, how it was trained
    model.safetensors  the parameters, by our names
    vae/               what decodes its latents, as diffusers has it

Reading needs jax, flax and numpy alone.
"""

import dataclasses
import json
import os
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from scm_jax import codec as codecs
from scm_jax import networks
from scm_jax.errors import UserError
from scm_jax.interop import safetensors
from scm_jax.model import Model

CONFIG, WEIGHTS = "config.json", "model.safetensors"
AUTOENCODER = "vae"  # a folder, of models of latents; diffusers' name
FORMAT = "scm_jax export"
VERSION = 1  # of the folder's layout; readers refuse later ones
KINDS = {True: "consistency", False: "diffusion"}
_CODECS = {"pixels": codecs.PixelCodec, "latents": codecs.LatentCodec}


class Origin(NamedTuple):
  """Where a model comes from.

  Attributes:
    config: the run's resolved config, in JSON's types.
    step: of the checkpoint.
    ema: name of the average, its width.
  """

  config: dict[str, Any]
  step: int
  ema: str


def describe(model: Model, origin: Origin) -> dict[str, Any]:
  """The content of `config.json`."""
  codec = {f.name: getattr(model.codec, f.name) for f in _fields(model.codec)}
  kind = next(k for k, c in _CODECS.items() if isinstance(model.codec, c))
  return {
    "format": FORMAT,
    "version": VERSION,
    "kind": KINDS[model.consistency],
    "network": _describe_network(model.network.config),
    "guide": model.guide and _describe_network(model.guide.network.config),
    "codec": {"kind": kind} | codec,
    "sampler": {
      "t_mid": model.t_mid,
      "sigma_max": model.sigma_max,
      "solver": model.solver,
    },
    "parameters": model.parameters,
    "step": origin.step,
    "ema": origin.ema,
    "training": origin.config,
  }


def write(
  folder: Any, model: Model, origin: Origin, weights: Mapping[str, Any]
) -> None:
  """Writes `config.json` and `model.safetensors`.

  Args:
    folder: an existing folder, as a `pathlib` or `epath` path.
    model: the model that the export describes.
    origin: the run and step that the model comes from.
    weights: `model.weights` in the types to store; see `cast`.

  Raises:
    OSError: the files cannot be written.
  """
  about = describe(model, origin)
  (folder / CONFIG).write_text(json.dumps(about, indent=2) + "\n")
  metadata = {"format": "scm_jax", "kind": about["kind"]}
  with (folder / WEIGHTS).open("wb") as stream:
    safetensors.write(stream, flatten(weights), metadata)


def _describe_network(config: networks.NetworkConfig) -> dict[str, Any]:
  family = next(
    name
    for name, family in networks.FAMILIES.items()
    if type(config) is family.config
  )
  fields = dataclasses.asdict(config) | {"dtype": jnp.dtype(config.dtype).name}
  return {"family": family} | fields


def _fields(codec: codecs.Codec) -> list[dataclasses.Field]:
  """What says how data were scaled; a decoder is a function, and left out."""
  return [f for f in dataclasses.fields(codec) if f.name != "autoencoder"]


def description(path: str | os.PathLike[str]) -> dict[str, Any] | None:
  """The `config.json` of an export; None if the folder is none.

  Raises:
    UserError: it was written by a later version.
  """
  try:
    content = json.loads((pathlib.Path(path) / CONFIG).read_text())
  except (OSError, ValueError):
    return None
  if not isinstance(content, dict) or content.get("format") != FORMAT:
    return None
  version = content.get("version")
  if not isinstance(version, int):
    raise UserError(
      f"{pathlib.Path(path) / CONFIG} is damaged: it states no version; export "
      "it again"
    )
  if version > VERSION:
    raise UserError(
      f"{path} is an export of version {version}; this scm_jax "
      f"reads up to {VERSION}: update it"
    )
  return content


def autoencoder(path: str | os.PathLike[str]) -> str:
  """The folder of an export's autoencoder; "" if it has none."""
  folder = pathlib.Path(path) / AUTOENCODER
  return str(folder) if folder.exists() else ""


def read(
  path: str | os.PathLike[str], where: Callable[[Any], Any] | None = None
) -> tuple[Model, Origin]:
  """The model of an export, its parameters in float32, without autoencoder.

  Args:
    path: the folder.
    where: from a tree of shapes to the same tree with shardings, in which the
      parameters are read, every device its own part; None is one device.

  Raises:
    UserError: the folder is no export, or is damaged.
  """
  about = description(path)
  if about is None:
    raise UserError(f"{path} is not an export: its {CONFIG} does not say so")
  try:
    return _model(path, about, where)
  except (AttributeError, KeyError, TypeError, ValueError) as error:
    raise UserError(
      f"{pathlib.Path(path) / CONFIG} is damaged, or of another scm_jax "
      f"({error}); export it again"
    ) from error


def _model(
  path: str | os.PathLike[str], about: Mapping[str, Any], where: Any
) -> tuple[Model, Origin]:
  network = _network(about["network"])
  guide = _network(about["guide"]) if about["guide"] else None
  codec = _hashable(about["codec"])
  codec = _CODECS[codec.pop("kind")](**codec)
  origin = Origin(about["training"], about["step"], about["ema"])
  params = _read_params(path, network, guide, where)
  weak = None
  if guide:
    weak = Model(guide, params.pop("guide"), codec, consistency=False)
  model = Model(
    network=network,
    params=params,
    codec=codec,
    consistency=about["kind"] == KINDS[True],
    guide=weak,
    **about["sampler"],
    **_defaults(origin.config),
  )
  return model, origin


def _defaults(training: Mapping[str, Any]) -> dict[str, Any]:
  """How a model draws unless told otherwise, as its run's config has it.

  Fields that the config does not have are left to `Model`.
  """
  sample, objective = (training.get(k, {}) for k in ("sample", "objective"))
  found = {k: sample[k] for k in ("solver_steps", "guidance") if k in sample}
  if "label_dropout" in objective:
    found["unconditional"] = bool(objective["label_dropout"])
  return found


def _network(fields: Mapping[str, Any]) -> networks.Network:
  fields = _hashable(fields)
  family = networks.FAMILIES[fields.pop("family")]
  config = family.config(**fields | {"dtype": jnp.dtype(fields["dtype"])})
  return networks.build(config)


def _hashable(fields: Mapping[str, Any]) -> dict[str, Any]:
  return {k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()}


def _read_params(
  path: str | os.PathLike[str],
  network: networks.Network,
  guide: networks.Network | None,
  where: Callable[[Any], Any] | None,
) -> dict[str, Any]:
  """`Model.weights`, held to have the networks' names and shapes."""
  file = pathlib.Path(path) / WEIGHTS
  tensors, _ = safetensors.read(file)
  key = jax.random.key(0)
  wanted = dict(jax.eval_shape(network.init, key))
  if guide:
    wanted["guide"] = jax.eval_shape(guide.init, key)
  wanted = flatten(where(wanted) if where else wanted)
  for name in sorted(wanted.keys() | tensors.keys()):
    shapes = [getattr(d.get(name), "shape", None) for d in (wanted, tensors)]
    if shapes[0] != shapes[1]:
      raise UserError(
        f"{file} does not fit {CONFIG}: {name} is {shapes[1] or 'missing'} "
        f"where {shapes[0] or 'nothing'} is wanted; export it again"
      )
  wide = {name: _put(tensor, wanted[name]) for name, tensor in tensors.items()}
  return traverse_util.unflatten_dict(wide, sep="/")


def _put(tensor: np.ndarray, like: jax.ShapeDtypeStruct) -> jax.Array:
  """A tensor in float32 on the devices; of each, its part alone is read."""
  if like.sharding is None:
    return jnp.asarray(tensor, jnp.float32)
  return jax.make_array_from_callback(
    *(like.shape, like.sharding),
    lambda index: np.asarray(tensor[index], np.float32),
  )


def flatten(params: Any) -> dict[str, Any]:
  """Parameters by the names they have in a file: `denoiser/conv_in/weight`."""
  return traverse_util.flatten_dict(params, sep="/")


def cast(params: Any, dtype: Any) -> Any:
  """Parameters as they are stored: filters in `dtype`, the rest in float32.

  Scalars and vectors (gains, Fourier frequencies) are few, and rounding a
  frequency turns its feature's phase.
  """

  def stored(leaf):
    leaf = np.asarray(leaf)
    return leaf.astype(dtype if leaf.ndim > 1 else np.float32)

  return jax.tree.map(stored, params)


def in_dtype(model: Model, dtype: Any = "") -> Model:
  """The model as it draws in another type of numbers.

  Args:
    model: as loaded.
    dtype: in which its filters are kept and the network computes; "" changes
      nothing.
  """
  if not dtype:
    return model
  dtype = jnp.dtype(dtype)
  config = dataclasses.replace(model.network.config, dtype=dtype)
  return dataclasses.replace(
    model,
    network=networks.build(config),
    params=cast(model.params, dtype),
    guide=model.guide and in_dtype(model.guide, dtype),
  )


def as_computed(model: Model, dtype: Any = "") -> Model:
  """The model as it is used outside: none of training's memory and kernels.

  Args:
    model: as it was trained.
    dtype: of the computation; "" keeps the training's.
  """
  config = dataclasses.replace(
    model.network.config,
    dtype=jnp.dtype(dtype or model.network.config.dtype),
    attention="einsum",  # the one that every platform has
    remat="none",
  )
  return dataclasses.replace(
    model,
    network=networks.build(config),
    guide=model.guide and as_computed(model.guide, dtype),
  )
