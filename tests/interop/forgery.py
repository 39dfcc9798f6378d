"""Network pickles as EDM2 writes them: PyTorch's tensors, stand-in classes.

EDM2's classes reduce to a call with their state and their source code; the
stand-ins of the same names do likewise while a file is written.
"""

import contextlib
import io
import pickle
import sys
import types
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

SOURCE = "raise SystemExit('the source code of a class was executed')"
FROM_BYTES = torch.storage._load_from_bytes
REBUILD = torch._utils._rebuild_tensor_v2


class EasyDict(dict):
  """A stand-in for `dnnlib.util.EasyDict`."""


def reconstruct(meta: Any) -> None:
  """Stands in for `torch_utils.persistence._reconstruct_persistent_obj`."""
  raise AssertionError("a pickle was executed while it was written")


EasyDict.__module__ = "dnnlib.util"
reconstruct.__module__ = "torch_utils.persistence"
reconstruct.__qualname__ = reconstruct.__name__ = "_reconstruct_persistent_obj"


@contextlib.contextmanager
def named() -> Iterator[None]:
  """Lets the stand-ins be imported by the names that pickles give them."""
  modules = {}
  for thing in (EasyDict, reconstruct):
    package, _, _ = thing.__module__.partition(".")
    modules[package] = types.ModuleType(package)
    modules[thing.__module__] = types.ModuleType(thing.__module__)
    setattr(modules[thing.__module__], thing.__name__, thing)
  sys.modules.update(modules)
  try:
    yield
  finally:
    for name in modules:
      del sys.modules[name]


class Reduces:
  """An object that is pickled as the call `function(*args)`."""

  def __init__(self, function: Any, *args: Any):
    self.reduction = function, args

  def __reduce__(self) -> tuple:
    return self.reduction


def tensor(array: np.ndarray) -> torch.Tensor:
  """Returns a tensor with the array's strides, offset in its storage."""
  steps = [stride // array.itemsize for stride in array.strides]
  values = torch.from_numpy(array.copy())
  storage = torch.zeros(array.size + 1, dtype=values.dtype)
  view = storage.as_strided(array.shape, steps, 1)
  view.copy_(values)
  return view


def legacy_archive(obj: Any) -> bytes:
  """Returns what `torch.save` wrote before PyTorch 1.6."""
  return _torch_save(obj, False)


def zip_archive(obj: Any) -> bytes:
  """Returns what `torch.save` writes since PyTorch 1.6."""
  return _torch_save(obj, True)


def _torch_save(obj: Any, zipped: bool) -> bytes:
  file = io.BytesIO()
  with named():
    torch.save(obj, file, _use_new_zipfile_serialization=zipped)
  return file.getvalue()


def plain(obj: Any, protocol: int = 4) -> bytes:
  """Returns what `pickle.dump` writes, by which EDM2 saves its networks."""
  with named():
    return pickle.dumps(obj, protocol)


def persistent(class_name: str, **state: Any) -> Any:
  """Returns an object of one of EDM2's persistent classes."""
  meta = {
    "type": "class",
    "version": 6,
    "module_src": SOURCE,
    "class_name": class_name,
    "state": {"_init_args": (), "_init_kwargs": {}} | state,
  }
  return Reduces(reconstruct, meta)


def network(params: dict[str, np.ndarray], config: Any) -> Any:
  """Returns a `Precond` of tensors by PyTorch's names, for our config."""
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
      (k, torch.nn.Parameter(tensor(v), requires_grad=False))
      for k, v in arrays.items()
      if k not in buffers
    ),
    "_buffers": OrderedDict(
      (k, tensor(v)) for k, v in arrays.items() if k in buffers
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
  container = torch.nn.ModuleDict()
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
  """Returns the content of a network pickle of EDM2's."""
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
  """Returns EDM2's encoder of latents, scaled to standard deviation 0.5."""
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
  """Returns weights like trained ones: none is zero, filters of unit RMS."""
  rng = np.random.default_rng(seed)
  draw = lambda shape: np.asarray(rng.normal(size=shape), np.float16)
  return {name: draw(shape) for name, shape in shapes.items()}
