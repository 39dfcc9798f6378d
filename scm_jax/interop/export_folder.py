"""The files of an export, and how a sampler is read from them.

    config.json        the network, how to sample from it, how it was trained
    model.safetensors  the parameters, by this package's names
    vae/               the autoencoder that decodes latents, if there is one

Reading an export needs jax, flax and numpy alone.
"""

import dataclasses
import json
import os
import pathlib
from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from scm_jax import codec as codecs
from scm_jax import networks
from scm_jax.errors import ConfigError, UserError
from scm_jax.interop import safetensors
from scm_jax.interop.export_request import DTYPES
from scm_jax.sampler import Sampler
from scm_jax.sampler_kinds import KINDS, SOLVERS

CONFIG, WEIGHTS = "config.json", "model.safetensors"
AUTOENCODER = "vae"  # the folder's name in diffusers' layout
PRETRAINED = pathlib.Path(__file__).parent.parent / "pretrained"
FORMAT = "scm_jax export"
VERSION = 1  # the layout's version; later ones are refused
# From a tree of shapes to the same tree with shardings to read into.
Where = Callable[[Any], Any] | None
_CODECS = {"pixels": codecs.PixelCodec, "latents": codecs.LatentCodec}


class Origin(NamedTuple):
  """The run and checkpoint that an export was made from."""

  config: dict[str, Any]  # the run's resolved config, in JSON's types
  step: int  # of training
  ema: str  # the name of the EMA weights, which is their width
  source: dict[str, Any] = {}  # `origin.json` of weights from elsewhere


def write(
  folder: Any, sampler: Sampler, origin: Origin, autoencoder: str = ""
) -> None:
  """Writes `config.json` and `model.safetensors` into an existing folder.

  Args:
    folder: a `pathlib` or `epath` path.
    sampler: its weights have the types to store; see `cast`.
    origin: what the weights are of.
    autoencoder: where the autoencoder's files are, which are not written here;
      relative to the folder.
  """
  second = sampler.guidance_network
  content = {
    "format": FORMAT,
    "version": VERSION,
    "kind": sampler.kind,
    "network": _describe_network(sampler.network),
    "guide": _describe_network(second) if second else None,
    "codec": _describe_codec(sampler.codec),
    "autoencoder": autoencoder,
    "sampler": {
      "t_mid": sampler.t_mid,
      "sigma_max": sampler.sigma_max,
      "solver": sampler.solver,
      **{name: getattr(sampler, name) for name in sampler.rules.settings},
    },
    "parameters": sampler.parameters,
    "step": origin.step,
    "ema": origin.ema,
    "training": origin.config,
  }
  if origin.source:
    content["source"] = origin.source
  write_json(folder / CONFIG, content)
  metadata = {"format": "scm_jax", "kind": sampler.kind}
  with (folder / WEIGHTS).open("wb") as stream:
    safetensors.write(stream, flatten(sampler.weights), metadata)


def write_json(path: Any, value: Any) -> None:
  """Writes a JSON file that people can read, to a `pathlib` or `epath` path."""
  path.write_text(json.dumps(value, indent=2) + "\n")


def _describe_network(network: networks.Network) -> dict[str, Any]:
  config = network.config
  fields = dataclasses.asdict(config) | {"dtype": jnp.dtype(config.dtype).name}
  return {"family": networks.family_name(config)} | fields


def _describe_codec(codec: codecs.Codec) -> dict[str, Any]:
  """Returns the codec's fields; its autoencoder has files of its own."""
  kind = next(name for name, c in _CODECS.items() if isinstance(codec, c))
  names = [field.name for field in dataclasses.fields(codec)]
  fields = {n: getattr(codec, n) for n in names if n != "autoencoder"}
  return {"kind": kind} | fields


def pretrained() -> list[str]:
  """Returns the names of the exports that come with the package, sorted."""
  return sorted(file.parent.name for file in PRETRAINED.glob(f"*/{CONFIG}"))


def find(path: str | os.PathLike[str]) -> pathlib.Path:
  """Returns the folder of an export that is named by its path or its name.

  A name in `pretrained()` is an export that comes with the package, unless the
  current folder has an export of that name.
  """
  folder = pathlib.Path(path)
  shipped = str(path) in pretrained() and not (folder / CONFIG).exists()
  return PRETRAINED / folder if shipped else folder


def description(path: str | os.PathLike[str]) -> dict[str, Any] | None:
  """Returns the `config.json` of an export, or None for any other folder.

  Raises:
    UserError: the export states a later version of this package, or none.
  """
  try:
    content = json.loads((find(path) / CONFIG).read_text())
  except (OSError, ValueError):
    return None
  if not isinstance(content, dict) or content.get("format") != FORMAT:
    return None
  version = content.get("version")
  if isinstance(version, int) and version <= VERSION:
    return content
  raise UserError(
    f"{path} is an export of version {version}, and this scm_jax reads up to "
    f"{VERSION}; update scm_jax, or export it again"
  )


def autoencoder(path: str | os.PathLike[str]) -> str:
  """Returns the path of an export's autoencoder, or "" if it has none.

  Raises:
    UserError: it should have one, but that is missing.
  """
  folder, content = find(path), description(path) or {}
  stated = content.get("autoencoder", "")
  found = folder / (stated or AUTOENCODER)  # earlier versions did not state it
  if found.exists():
    return str(found)
  if stated:
    raise UserError(
      f"the autoencoder of {path} is missing: there is no {found}; copy it, or "
      'give another one (--autoencoder=FILE), or "" to draw small previews'
    )
  return ""


def read(
  path: str | os.PathLike[str], where: Where = None, ema: float = 0.0
) -> tuple[Sampler, Origin]:
  """Reads an export, its parameters in float32, without its autoencoder.

  Args:
    path: the export's folder, or a name in `pretrained()`.
    where: gives the shardings by which every device reads its own part; None
      reads all to one device.
    ema: the width, or half-life, of the wanted EMA weights; 0 is any.

  Raises:
    UserError: the folder is no export, is damaged, holds other EMA weights, or
      is of a package that is not installed.
  """
  content = description(path)
  if content is None:
    raise UserError(f"{path} is not an export: its {CONFIG} does not say so")
  try:
    origin = Origin(content["training"], content["step"], content["ema"])
    origin = origin._replace(source=content.get("source", {}))
    other_ema = ema and ema != float(origin.ema)
    codec, guide = _hashable(content["codec"]), content["guide"]
    _check_installed(path, content)
    sampler = Sampler(
      network=_network(content["network"]),
      params=None,
      codec=_CODECS[codec.pop("kind")](**codec),
      kind=content["kind"],
      guidance_network=_network(guide) if guide else None,
      **content["sampler"],
      **_defaults(origin.config),
    )
    sampler = sampler.with_weights(_read_weights(path, sampler, where))
  except (AttributeError, KeyError, TypeError, ValueError) as error:
    raise UserError(
      f"{pathlib.Path(path) / CONFIG} is damaged, or was written by another "
      f"version of scm_jax ({error}); export it again"
    ) from error
  if description(path) != content:  # it was replaced meanwhile, as `best/` is
    return read(path, where, ema)
  if other_ema:
    raise UserError(
      f"{path} is an export of the EMA weights {origin.ema} alone; export "
      f"{ema:g} from its run"
    )
  return sampler, origin


def _check_installed(
  path: str | os.PathLike[str], content: Mapping[str, Any]
) -> None:
  """Raises UserError if a package that added a part of it is not installed."""
  parts: list[tuple[str, str, Collection[str]]] = [
    ("kind of sampler", content["kind"], KINDS),
    ("solver", content["sampler"]["solver"], SOLVERS),
  ]
  for network in filter(None, (content["network"], content["guide"])):
    parts.append(("network", network["family"], networks.FAMILIES))
  for what, name, known in parts:
    if name not in known:
      raise UserError(
        f"{path} has a {what} {name!r}, which nothing that is installed here "
        "has; install the package that adds it (docs/extending.md), or use the "
        f"programs in {path}/stablehlo, if it has them"
      )


def _defaults(training: Mapping[str, Any]) -> dict[str, Any]:
  """Returns the `Sampler` fields that the run's config sets, if it has them."""
  sample, objective = (training.get(k, {}) for k in ("sample", "objective"))
  names = ("solver_steps", "batch_size", "guidance")
  names += ("guidance_interval", "guidance_channels")
  found = {name: sample[name] for name in names if name in sample}
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


def _read_weights(
  path: str | os.PathLike[str], sampler: Sampler, where: Where
) -> dict[str, Any]:
  """Reads a tree like `sampler.weights`, and checks names and shapes."""
  file = find(path) / WEIGHTS
  tensors, _ = safetensors.read(file)
  wanted = dict(sampler.network.shapes)
  if sampler.guidance_network:
    wanted["guide"] = sampler.guidance_network.shapes
  wanted = flatten(where(wanted) if where else wanted)
  for name in sorted(wanted.keys() | tensors.keys()):
    shapes = [getattr(d.get(name), "shape", None) for d in (wanted, tensors)]
    if shapes[0] != shapes[1]:
      raise UserError(
        f"{file} does not fit {CONFIG}: the shape of {name} is "
        f"{shapes[1] or 'missing'}, but should be {shapes[0] or 'absent'}; "
        "export it again"
      )
  wide = {name: _put(tensor, wanted[name]) for name, tensor in tensors.items()}
  return traverse_util.unflatten_dict(wide, sep="/")


def _put(tensor: np.ndarray, like: jax.ShapeDtypeStruct) -> jax.Array:
  """Puts a tensor on devices in float32, and reads each device's part alone."""
  if like.sharding is None:
    return jnp.asarray(tensor, jnp.float32)
  part = lambda index: np.asarray(tensor[index], np.float32)
  return jax.make_array_from_callback(like.shape, like.sharding, part)


def flatten(params: Any) -> dict[str, Any]:
  """Returns parameters by their names in a file: `denoiser/conv_in/weight`."""
  return traverse_util.flatten_dict(params, sep="/")


def cast(params: Any, dtype: Any) -> Any:
  """Casts parameters for storage: filters to `dtype`, the rest to float32.

  Scalars and vectors (gains, Fourier frequencies) are few, and rounding a
  frequency would turn its feature's phase.
  """
  kind = lambda leaf: dtype if np.ndim(leaf) > 1 else np.float32
  return jax.tree.map(lambda x: np.asarray(x).astype(kind(x)), params)


def in_dtype(sampler: Sampler, dtype: str) -> Sampler:
  """Returns the sampler with filters and computation in `dtype`, unless "".

  Raises:
    ConfigError: the type is none of `DTYPES`.
  """
  if not dtype:
    return sampler
  if dtype not in DTYPES:
    raise ConfigError(f"dtype is {dtype!r}; choose from {', '.join(DTYPES)}")
  weights = cast(sampler.weights, jnp.dtype(dtype))
  return _with_networks(sampler, dtype=jnp.dtype(dtype)).with_weights(weights)


def as_computed(sampler: Sampler, dtype: Any = "") -> Sampler:
  """Returns the sampler without training's kernels and rematerialisation.

  The computation is in `dtype`; "" keeps training's.
  """
  change = {"dtype": jnp.dtype(dtype)} if dtype else {}
  # The implementations that every platform has.
  return _with_networks(sampler, attention="einsum", remat="none", **change)


def _with_networks(sampler: Sampler, **change: Any) -> Sampler:
  """Returns the sampler with fields of both networks' configs changed."""

  def changed(network: networks.Network) -> networks.Network:
    return networks.build(dataclasses.replace(network.config, **change))

  second = sampler.guidance_network
  return dataclasses.replace(
    sampler,
    network=changed(sampler.network),
    guidance_network=second and changed(second),
  )
