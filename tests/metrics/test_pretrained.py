"""Files of published networks: of every form, damaged, hostile, mistaken."""

import collections
import hashlib
import pickle
import sys
import types
import zipfile

import jax
import numpy as np
import pytest

from scm_jax import errors
from scm_jax.interop import safetensors
from scm_jax.metrics import extractors, inception


@pytest.fixture(scope="module")
def tensors(draw_inception):
  return draw_inception(1 / 16)


def same(found, expected):
  jax.tree.map(np.testing.assert_array_equal, found, expected)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_state_dict_that_pytorch_saved(tensors, tmp_path, zipped):
  torch = pytest.importorskip("torch")
  state = collections.OrderedDict(
    (name, torch.from_numpy(tensor)) for name, tensor in tensors.items()
  )
  state["Mixed_5b.branch1x1.bn.num_batches_tracked"] = torch.tensor(3)
  path = tmp_path / "weights.pth"
  torch.save(state, path, _use_new_zipfile_serialization=zipped)
  extractor = extractors.load("inception", path)
  assert (extractor.name, extractor.dim) == ("inception", 128)
  same(extractor.params, inception.from_tensors(tensors))


def test_a_whole_module_is_read_by_its_tensors(tmp_path):
  torch = pytest.importorskip("torch")
  from scm_jax.interop import state_dict

  torch.manual_seed(0)
  module = torch.nn.Sequential(
    torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.ReLU()
  )
  torch.save(module, tmp_path / "module.pt")
  found = state_dict.read(tmp_path / "module.pt")
  expected = {n: t.numpy() for n, t in module.state_dict().items()}
  assert found.keys() == expected.keys()
  same(found, expected)


# Paths of NVIDIA's modules by torchvision's names, for one block of a kind.
TOWERS = {
  "Mixed_5": {
    "branch1x1": "conv",
    **{
      f"branch5x5_{i + 1}": f"tower.conv{n}" for i, n in enumerate(["", "_1"])
    },
    "branch3x3dbl_1": "tower_1.conv",
    "branch3x3dbl_2": "tower_1.conv_1",
    "branch3x3dbl_3": "tower_1.conv_2",
    "branch_pool": "tower_2.conv",
  },
  "Mixed_6a": {
    "branch3x3": "conv",
    "branch3x3dbl_1": "tower.conv",
    "branch3x3dbl_2": "tower.conv_1",
    "branch3x3dbl_3": "tower.conv_2",
  },
  "Mixed_6": {
    "branch1x1": "conv",
    "branch7x7_1": "tower.conv",
    "branch7x7_2": "tower.conv_1",
    "branch7x7_3": "tower.conv_2",
    "branch7x7dbl_1": "tower_1.conv",
    "branch7x7dbl_2": "tower_1.conv_1",
    "branch7x7dbl_3": "tower_1.conv_2",
    "branch7x7dbl_4": "tower_1.conv_3",
    "branch7x7dbl_5": "tower_1.conv_4",
    "branch_pool": "tower_2.conv",
  },
  "Mixed_7a": {
    "branch3x3_1": "tower.conv",
    "branch3x3_2": "tower.conv_1",
    "branch7x7x3_1": "tower_1.conv",
    "branch7x7x3_2": "tower_1.conv_1",
    "branch7x7x3_3": "tower_1.conv_2",
    "branch7x7x3_4": "tower_1.conv_3",
  },
  "Mixed_7": {
    "branch1x1": "conv",
    "branch3x3_1": "tower_conv",
    "branch3x3_2a": "tower_mixed_conv",
    "branch3x3_2b": "tower_mixed_conv_1",
    "branch3x3dbl_1": "tower_1_conv",
    "branch3x3dbl_2": "tower_1_conv_1",
    "branch3x3dbl_3a": "tower_1_mixed_conv",
    "branch3x3dbl_3b": "tower_1_mixed_conv_1",
    "branch_pool": "tower_2_conv",
  },
}
STEM = {"1a_3x3": "", "2a_3x3": "_1", "2b_3x3": "_2", "3b_1x1": "_3"}
STEM |= {"4a_3x3": "_4"}
MIXED = ("5b", "5c", "5d", "6a", "6b", "6c", "6d", "6e", "7a", "7b", "7c")


def to_nvidia(name):
  """Returns the name in NVIDIA's file; None for gains, which it lacks."""
  if name.startswith("fc."):
    return f"output.{name.removeprefix('fc.')}"
  *layer, _, part = name.split(".")
  part = {"running_mean": "mean", "running_var": "var", "bias": "beta"}.get(
    part
  )
  if name.endswith(".bn.weight"):
    return None
  part = part or "weight"
  if layer[0].startswith("Conv2d_"):
    return f"layers.conv{STEM[layer[0].removeprefix('Conv2d_')]}.{part}"
  block, branch = layer
  number = MIXED.index(block.removeprefix("Mixed_"))
  towers = TOWERS.get(block) or TOWERS[block[:-1]]
  suffix = f"_{number}" if number else ""
  return f"layers.mixed{suffix}.{towers[branch]}.{part}"


@pytest.fixture(scope="module")
def nvidia(tensors):
  """Returns a network pickled by PyTorch as NVIDIA's persistence does."""
  torch = pytest.importorskip("torch")
  reconstruct = types.FunctionType(
    (lambda meta: None).__code__, {}, "_reconstruct_persistent_obj"
  )
  reconstruct.__module__ = "torch_utils.persistence"
  reconstruct.__qualname__ = "_reconstruct_persistent_obj"

  class Persistent(torch.nn.Module):
    def __reduce__(self):
      meta = {
        "type": "class",
        "version": 6,
        "module_src": "raise SystemExit('source code was executed')",
        "class_name": type(self).__name__,
        "state": super().__reduce__()[2],
      }
      return reconstruct, (meta,), None

  root = Persistent()
  for name, tensor in tensors.items():
    theirs = to_nvidia(name)
    if not theirs:
      continue
    *path, last = theirs.split(".")
    module = root
    for depth, key in enumerate(path):
      if not hasattr(module, key):
        container = depth == 0 or "tower" in key
        kind = torch.nn.Sequential if container else Persistent
        module.add_module(key, kind())
      module = getattr(module, key)
    value = torch.from_numpy(tensor)
    if last in ("mean", "var"):
      module.register_buffer(last, value)
    else:
      module.register_parameter(last, torch.nn.Parameter(value))
  root.layers.add_module("pool0", torch.nn.MaxPool2d(3, 2))
  packages = {name: types.ModuleType(name) for name in ("torch_utils",)}
  packages["torch_utils.persistence"] = types.ModuleType("persistence")
  packages["torch_utils.persistence"]._reconstruct_persistent_obj = reconstruct
  with pytest.MonkeyPatch.context() as patch:
    for name, module in packages.items():
      patch.setitem(sys.modules, name, module)
    return pickle.dumps(root)


def test_the_network_that_nvidia_pickled(tensors, nvidia, tmp_path):
  assert b"was executed" in nvidia
  path = tmp_path / "inception-2015-12-05.pkl"
  path.write_bytes(nvidia)
  ones = {n: np.ones_like(t) for n, t in tensors.items() if "bn.weight" in n}
  extractor = extractors.load("inception-pytorch-fid", path)
  assert extractor.name == "inception-pytorch-fid"
  same(extractor.params, inception.from_tensors(tensors | ones))


def test_conversion_to_safetensors(command, inception_file, tensors, tmp_path):
  torch = pytest.importorskip("torch")
  source, target = tmp_path / "weights.pth", tmp_path / "new" / "w.safetensors"
  state = {name: torch.from_numpy(tensor) for name, tensor in tensors.items()}
  torch.save(state, source)
  code, printed, _ = command("convert-weights", "inception", source, target)
  assert code == 0 and str(target) in printed
  assert target.stat().st_size == pytest.approx(
    inception_file.stat().st_size, rel=0.01
  )
  same(safetensors.read(target)[0], tensors)
  same(
    extractors.load("inception", target).params,
    extractors.load("inception", inception_file).params,
  )


def test_conversion_refuses_what_load_refuses(
  command, inception_file, tmp_path
):
  target = tmp_path / "x.safetensors"
  code, _, message = command(
    "convert-weights", "dinov2", inception_file, target
  )
  assert code == 1 and "not the network of 'dinov2'" in message
  code, _, message = command(
    "convert-weights", "inception", inception_file, "x.npz"
  )
  assert code == 2 and "does not end in .safetensors" in message
  assert not target.exists()


@pytest.mark.parametrize("name", extractors.PUBLISHED)
def test_a_missing_file_says_what_to_fetch(tmp_path, name):
  with pytest.raises(errors.UserError) as caught:
    extractors.load(name, tmp_path / "none.pth")
  message = str(caught.value)
  assert f"--weights={name}=FILE" in message and "\n" not in message
  assert "fetch https://" in message


def test_names(inception_file):
  with pytest.raises(errors.ConfigError, match="did you mean 'inception'"):
    extractors.load("incepton", inception_file)


def test_a_download_that_is_damaged(inception_file, tmp_path):
  data = inception_file.read_bytes()
  digest = hashlib.sha256(data).hexdigest()[:8]
  path = tmp_path / "weights-6726825d.pth"
  path.write_bytes(data)
  wanted = rf"begins with {digest} and not .*; fetch https"
  with pytest.raises(errors.UserError, match=wanted):
    extractors.load("inception", path)
  cut = tmp_path / "cut.safetensors"
  cut.write_bytes(data[:1000])
  with pytest.raises(
    errors.UserError, match="not a whole safetensors.*; fetch"
  ):
    extractors.load("inception", cut)


class Hostile:
  def __reduce__(self):
    return exec, ("raise SystemExit('executed')",)


def hostile_network():
  """Returns a layer of PyTorch's with an attribute that runs code."""
  torch = pytest.importorskip("torch")
  module = torch.nn.Linear(1, 1)
  module.hook = Hostile()
  return module


@pytest.mark.parametrize("make", [Hostile, hostile_network])
def test_nothing_is_executed(tmp_path, make):
  path = tmp_path / "hostile.pkl"
  path.write_bytes(pickle.dumps(make()))
  with pytest.raises(
    errors.UserError, match=r"names builtins\.exec, .*nothing in it was"
  ):
    extractors.load("inception", path)


def test_torchscript_is_refused_in_one_line(tmp_path):
  path = tmp_path / "inception-2015-12-05.pt"
  with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
    for name in ("data.pkl", "constants.pkl", "code/__torch__.py"):
      archive.writestr(f"inception/{name}", b"")
  wanted = "a TorchScript program.*; fetch https"
  with pytest.raises(errors.UserError, match=wanted) as caught:
    extractors.load("inception", path)
  assert "\n" not in str(caught.value)
