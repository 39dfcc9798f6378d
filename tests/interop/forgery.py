"""Network pickles as EDM2 and PyTorch write them, without either.

Classes of the same names stand in for theirs while a file is written; what they
reduce to is what theirs do. The bytes of a tensor are an archive of PyTorch's
older format, as a tensor in a plain pickle has them.
"""

import contextlib
import io
import pickle
import sys
import types
import zipfile
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from scm_jax.interop import torch_archive

SOURCE = "raise SystemExit('the source code of a class was executed')"
_STORAGES = {np.dtype(v): k for k, v in torch_archive.STORAGES.items()}


class Named:
  """Pickles as the global `module.name`, to whatever it stands for."""

  def __init__(self, module: str, name: str):
    self.__module__, self.__qualname__, self.__name__ = module, name, name

  def __reduce__(self) -> str:
    return self.__name__

  def __call__(self, *args: Any) -> None:  # a reduction's function must be one
    raise AssertionError(f"{self.__name__} was called while writing")


class EasyDict(dict):
  """`dnnlib.util.EasyDict`."""


class ModuleDict:
  """`torch.nn.modules.container.ModuleDict`."""


EasyDict.__module__ = "dnnlib.util"
ModuleDict.__module__ = "torch.nn.modules.container"
RECONSTRUCT = Named("torch_utils.persistence", "_reconstruct_persistent_obj")
REBUILD = Named("torch._utils", "_rebuild_tensor_v2")
PARAMETER = Named("torch._utils", "_rebuild_parameter")
FROM_BYTES = Named("torch.storage", "_load_from_bytes")
TYPES = {name: Named("torch", name) for name in torch_archive.STORAGES}
OURS = [EasyDict, RECONSTRUCT]  # EDM2's, that is
TORCH = [ModuleDict, REBUILD, PARAMETER, FROM_BYTES, *TYPES.values()]


@contextlib.contextmanager
def named(things: Sequence[Any] = (*OURS, *TORCH)) -> Iterator[None]:
  """While it lasts, the modules of these stand-ins can be imported."""
  made: dict[str, types.ModuleType] = {}
  for thing in things:
    parts = thing.__module__.split(".")
    for i in range(len(parts)):
      name = ".".join(parts[: i + 1])
      made.setdefault(name, types.ModuleType(name))
    setattr(made[thing.__module__], thing.__name__, thing)
  before = {name: sys.modules.get(name) for name in made}
  sys.modules.update(made)
  try:
    yield
  finally:
    for name, module in before.items():
      if module is None:
        del sys.modules[name]
      else:
        sys.modules[name] = module


class Reduces:
  """Pickles as the call `function(*args)`."""

  def __init__(self, function: Any, *args: Any):
    self.reduction = function, args

  def __reduce__(self) -> tuple:
    return self.reduction


class Storage:
  """A storage, referred to or, in a plain pickle, an archive of its own."""

  def __init__(self, array: np.ndarray):
    self.array = array

  def __reduce__(self) -> tuple:
    return FROM_BYTES, (legacy_archive(self),)


def tensor(array: np.ndarray, parameter: bool = True) -> Any:
  """A tensor, or a parameter, of which the storage begins before it."""
  storage = Storage(np.concatenate([[7], array.ravel("K")]).astype(array.dtype))
  steps = tuple(s // array.itemsize for s in array.strides)
  view = storage, 1, array.shape, steps
  rebuilt = Reduces(REBUILD, *view, False, OrderedDict())
  if not parameter:
    return rebuilt
  return Reduces(PARAMETER, rebuilt, False, OrderedDict())


class _Archiver(pickle.Pickler):
  """Puts storages aside, as `torch.save` does."""

  def __init__(self, file):
    super().__init__(file, protocol=2)
    self.storages: dict[str, np.ndarray] = {}

  def persistent_id(self, obj: Any) -> tuple | None:
    if not isinstance(obj, Storage):
      return None
    key = str(len(self.storages))
    self.storages[key] = obj.array
    kind = TYPES[_STORAGES[obj.array.dtype.newbyteorder("<")]]
    return "storage", kind, key, "cpu", obj.array.size


def legacy_archive(obj: Any) -> bytes:
  """`torch.save` of the older format."""
  file = io.BytesIO()
  little = {"protocol_version": 1001, "little_endian": True, "type_sizes": {}}
  for start in (torch_archive.LEGACY_MAGIC, torch_archive.PROTOCOL, little):
    pickle.dump(start, file, protocol=2)
  archiver = _Archiver(file)
  archiver.dump(obj)
  pickle.dump(sorted(archiver.storages), file, protocol=2)
  for _, array in sorted(archiver.storages.items()):
    file.write(array.size.to_bytes(8, "little") + array.tobytes())
  return file.getvalue()


def zip_archive(obj: Any) -> bytes:
  """`torch.save` of today's format."""
  file, data = io.BytesIO(), io.BytesIO()
  with named():
    archiver = _Archiver(data)
    archiver.dump(obj)
  with zipfile.ZipFile(file, "w") as archive:
    archive.writestr("archive/data.pkl", data.getvalue())
    archive.writestr("archive/byteorder", "little")
    for key, array in archiver.storages.items():
      archive.writestr(f"archive/data/{key}", array.tobytes())
  return file.getvalue()


def plain(obj: Any) -> bytes:
  """`pickle.dump`, as EDM2 saves its networks."""
  with named():
    return pickle.dumps(obj, protocol=4)


def persistent(class_name: str, **state: Any) -> Any:
  """An object of one of EDM2's persistent classes."""
  meta = {
    "type": "class",
    "version": 6,
    "module_src": SOURCE,
    "class_name": class_name,
    "state": {"_init_args": (), "_init_kwargs": {}} | state,
  }
  return Reduces(RECONSTRUCT, meta)


def network(params: dict[str, np.ndarray], config: Any) -> Any:
  """A `Precond` of tensors by PyTorch's names, for a config of ours."""
  tree: dict[str, Any] = {}
  for name, array in params.items():
    group = tree
    *path, last = name.split(".")
    for key in path:
      group = group.setdefault(key, {})
    group[last] = array
  return _module("Precond", tree, config)


def _module(kind: str, tree: dict[str, Any], config: Any) -> Any:
  buffers = ("freqs", "phases")
  arrays = {k: v for k, v in tree.items() if isinstance(v, np.ndarray)}
  state = {
    "training": False,
    "_parameters": OrderedDict(
      (k, tensor(v)) for k, v in arrays.items() if k not in buffers
    ),
    "_buffers": OrderedDict(
      (k, tensor(v, parameter=False)) for k, v in arrays.items() if k in buffers
    ),
    "_non_persistent_buffers_set": set(),
    "_modules": OrderedDict(
      (name, _module(_kind(name, child), child, config))
      for name, child in tree.items()
      if isinstance(child, dict)
    ),
  }
  if kind == "Precond":
    state |= {"img_resolution": config.resolution, "sigma_data": 0.5}
    state |= {"img_channels": config.in_channels, "use_fp16": True}
    state |= {"label_dim": config.num_classes}
  elif kind == "UNet":
    state |= {"label_balance": 0.5, "concat_balance": 0.5}
  elif kind == "Block":
    width = len(tree["conv_res1"]["weight"])
    heads = width // config.channels_per_head if "attn_qkv" in tree else 0
    state |= {"out_channels": width, "num_heads": heads, "clip_act": 256}
    state |= {"resample_filter": [1, 1], "res_balance": 0.3}
    state |= {"attn_balance": 0.3, "dropout": 0, "flavor": "enc"}
    absent = {"conv_skip", "attn_qkv", "attn_proj"} - tree.keys()
    state["_modules"] |= dict.fromkeys(absent)
  if kind != "ModuleDict":
    return persistent(kind, **state)
  container = ModuleDict()
  container.__dict__.update(state)
  return container


def _kind(name: str, tree: dict[str, Any]) -> str:
  if name in ("enc", "dec"):
    return "ModuleDict"
  if "freqs" in tree:
    return "MPFourier"
  if "weight" in tree:
    return "MPConv"
  return "UNet" if name == "unet" else "Block"


def snapshot(ema: Any, encoder: Any) -> Any:
  """What a network pickle of EDM2's holds."""
  data = {"class_name": "training.dataset.ImageFolderDataset", "path": "x.zip"}
  return EasyDict(
    encoder=encoder,
    dataset_kwargs=EasyDict(data),
    loss_fn=persistent("EDM2Loss", P_mean=-0.4, P_std=1.0, sigma_data=0.5),
    ema=ema,
  )


def pixels() -> Any:
  return persistent("StandardRGBEncoder")


def latents() -> Any:
  """EDM2's encoder for Stability's latents, whitened to deviation 0.5."""
  scale = np.float32(0.5) / np.array([4.17, 4.62, 3.71, 3.28], np.float32)
  mean = np.array([5.81, 3.25, 0.12, -2.15], np.float32)
  return persistent(
    "StabilityVAEEncoder",
    vae_name="stabilityai/sd-vae-ft-mse",
    scale=scale,
    bias=-mean * scale,
    batch_size=8,
    _vae=None,
  )


def random_params(
  shapes: dict[str, tuple[int, ...]], seed: int = 0
) -> dict[str, np.ndarray]:
  """Weights as training leaves them: none zero, filters of about unit RMS."""
  rng = np.random.default_rng(seed)
  draw = lambda shape: np.asarray(rng.normal(size=shape), np.float16)
  return {name: draw(shape) for name, shape in shapes.items()}
