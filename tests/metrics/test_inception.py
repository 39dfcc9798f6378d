"""FID's Inception against the same in PyTorch, and its files."""

import importlib.util
import sys
import types

import jax
import numpy as np
import pytest

from scm_jax import errors
from scm_jax.interop.state_dict import Misfit
from scm_jax.metrics import inception


@pytest.fixture(scope="module")
def computed():
  """`computed(tensors, images)`: all layers' outputs, features and logits."""

  def compute(tensors, images):
    extractor = inception.extractor(tensors)

    @jax.jit
    def program(params, images):
      outputs = inception.layers(params, inception.prepare(images))
      outputs |= extractor.apply(params, images)
      biased = outputs["logits"] + params["fc"]["bias"]
      return outputs | {"logits with bias": biased}

    return jax.device_get(program(extractor.params, images))

  return compute


class Original:
  """The network in PyTorch: torchvision's blocks with FID's two changes."""

  def __init__(self, tensors):
    import torch

    self.tensors = {n: torch.from_numpy(t) for n, t in tensors.items()}
    self.functional = torch.nn.functional
    self.concatenate = lambda *parts: torch.cat(parts, 1)

  def conv(self, x, name, stride=1, padding=0):
    part = lambda name_: self.tensors[f"{name}.{name_}"]
    x = self.functional.conv2d(
      x, part("conv.weight"), stride=stride, padding=padding
    )
    statistics = part("bn.running_mean"), part("bn.running_var")
    affine = part("bn.weight"), part("bn.bias")
    x = self.functional.batch_norm(x, *statistics, *affine, eps=0.001)
    return self.functional.relu(x)

  def chain(self, x, name, *paddings):
    """Convolutions `name_1`, ...; the paddings show the kernels' sizes."""
    for number, padding in enumerate(paddings, 1):
      x = self.conv(x, f"{name}_{number}", padding=padding)
    return x

  def average(self, x):
    pool = self.functional.avg_pool2d
    return pool(x, 3, stride=1, padding=1, count_include_pad=False)

  def a(self, x, name):
    return self.concatenate(
      self.conv(x, f"{name}.branch1x1"),
      self.chain(x, f"{name}.branch5x5", 0, 2),
      self.chain(x, f"{name}.branch3x3dbl", 0, 1, 1),
      self.conv(self.average(x), f"{name}.branch_pool"),
    )

  def b(self, x, name):
    double = self.chain(x, f"{name}.branch3x3dbl", 0, 1)
    return self.concatenate(
      self.conv(x, f"{name}.branch3x3", 2),
      self.conv(double, f"{name}.branch3x3dbl_3", 2),
      self.functional.max_pool2d(x, 3, 2),
    )

  def c(self, x, name):
    wide, high = (0, 3), (3, 0)
    return self.concatenate(
      self.conv(x, f"{name}.branch1x1"),
      self.chain(x, f"{name}.branch7x7", 0, wide, high),
      self.chain(x, f"{name}.branch7x7dbl", 0, high, wide, high, wide),
      self.conv(self.average(x), f"{name}.branch_pool"),
    )

  def d(self, x, name):
    single = self.chain(x, f"{name}.branch3x3", 0)
    seven = self.chain(x, f"{name}.branch7x7x3", 0, (0, 3), (3, 0))
    return self.concatenate(
      self.conv(single, f"{name}.branch3x3_2", 2),
      self.conv(seven, f"{name}.branch7x7x3_4", 2),
      self.functional.max_pool2d(x, 3, 2),
    )

  def e(self, x, name, maximum):
    single = self.chain(x, f"{name}.branch3x3", 0)
    double = self.chain(x, f"{name}.branch3x3dbl", 0, 1)
    largest = self.functional.max_pool2d(x, 3, 1, 1)
    pooled = largest if maximum else self.average(x)
    return self.concatenate(
      self.conv(x, f"{name}.branch1x1"),
      self.conv(single, f"{name}.branch3x3_2a", padding=(0, 1)),
      self.conv(single, f"{name}.branch3x3_2b", padding=(1, 0)),
      self.conv(double, f"{name}.branch3x3dbl_3a", padding=(0, 1)),
      self.conv(double, f"{name}.branch3x3dbl_3b", padding=(1, 0)),
      self.conv(pooled, f"{name}.branch_pool"),
    )

  def __call__(self, x):
    pool = lambda x, name: self.functional.max_pool2d(x, 3, 2)
    steps = {
      "Conv2d_1a_3x3": lambda x, name: self.conv(x, name, 2),
      "Conv2d_2a_3x3": self.conv,
      "Conv2d_2b_3x3": lambda x, name: self.conv(x, name, padding=1),
      "MaxPool_1": pool,
      "Conv2d_3b_1x1": self.conv,
      "Conv2d_4a_3x3": self.conv,
      "MaxPool_2": pool,
      **dict.fromkeys(("Mixed_5b", "Mixed_5c", "Mixed_5d"), self.a),
      "Mixed_6a": self.b,
      **dict.fromkeys([f"Mixed_6{letter}" for letter in "bcde"], self.c),
      "Mixed_7a": self.d,
      "Mixed_7b": lambda x, name: self.e(x, name, maximum=False),
      "Mixed_7c": lambda x, name: self.e(x, name, maximum=True),
    }
    outputs = {}
    for name, step in steps.items():
      x = outputs[name] = step(x, name)
    found = {n: y.permute(0, 2, 3, 1).numpy() for n, y in outputs.items()}
    features = x.mean((2, 3))
    logits = features @ self.tensors["fc.weight"].T
    biased = logits + self.tensors["fc.bias"]
    found |= {"features": features.numpy(), "logits": logits.numpy()}
    # sFID's: the graph's mixed_6/conv, alone.
    conv = inception.to_torchvision("layers.mixed_6.conv.weight")
    spatial = self.conv(outputs["Mixed_6c"], conv.removesuffix(".conv.weight"))
    spatial = spatial[:, :7].permute(0, 2, 3, 1).flatten(1)
    found["spatial"] = spatial.numpy()
    return found | {"logits with bias": biased.numpy()}


def relative(found, expected):
  assert found.shape == expected.shape
  return np.abs(found - expected).max() / np.abs(expected).max()


def test_every_layer_as_pytorch(computed, draw_inception):
  torch = pytest.importorskip("torch")
  tensors = draw_inception(width=1 / 4)
  images = np.random.default_rng(1).integers(0, 256, (1, 64, 48, 3), np.uint8)
  found = computed(tensors, images)
  x = np.moveaxis(np.asarray(inception.prepare(images)), -1, 1).copy()
  expected = Original(tensors)(torch.from_numpy(x))
  assert found.keys() == expected.keys()
  errors_ = {n: relative(found[n], expected[n]) for n in expected}
  assert max(errors_.values()) < 1e-5, errors_


def test_outputs_as_torch_fidelity(
  computed, draw_inception, tmp_path, monkeypatch
):
  """Runs after `pip install --no-deps torch-fidelity`; without its datasets."""
  torch = pytest.importorskip("torch")
  spec = importlib.util.find_spec("torch_fidelity")
  if not spec or not spec.submodule_search_locations:
    pytest.skip("torch-fidelity is not installed")
  package = types.ModuleType("torch_fidelity")
  package.__path__ = list(spec.submodule_search_locations)
  monkeypatch.setitem(sys.modules, "torch_fidelity", package)
  theirs = importlib.import_module(
    "torch_fidelity.feature_extractor_inceptionv3"
  )
  tensors = draw_inception(width=1)
  path = tmp_path / "weights.pth"
  torch.save({n: torch.from_numpy(t) for n, t in tensors.items()}, path)
  names = ["64", "192", "768", "2048", "logits_unbiased", "logits"]
  network = theirs.FeatureExtractorInceptionV3("x", names, str(path))
  images = np.random.default_rng(2).integers(0, 256, (1, 40, 64, 3), np.uint8)
  with torch.no_grad():
    expected = network(torch.from_numpy(np.moveaxis(images, -1, 1).copy()))
  found = computed(tensors, images)
  mean = lambda name: found[name].mean(axis=(1, 2))
  ours = [mean("MaxPool_1"), mean("MaxPool_2"), mean("Mixed_6e")]
  ours += [found[n] for n in ("features", "logits", "logits with bias")]
  for mine, other in zip(ours, expected, strict=True):
    assert relative(mine, other.numpy()) < 1e-5


def test_conventions_of_the_input():
  torch = pytest.importorskip("torch")
  images = np.random.default_rng(3).integers(0, 256, (2, 64, 64, 3), np.uint8)
  x = torch.from_numpy(np.moveaxis(images, -1, 1).copy()).float() / 255
  x = torch.nn.functional.interpolate(x, (299, 299), mode="bilinear")
  theirs = (2 * x - 1).permute(0, 2, 3, 1).numpy()
  ours = np.asarray(inception.prepare(images, "inception-pytorch-fid"))
  np.testing.assert_allclose(ours, theirs, atol=1e-4)
  default = np.asarray(inception.prepare(images))
  # TensorFlow's first pixel is the image's own, scaled by 128.
  np.testing.assert_array_equal(
    default[:, 0, 0], (images[:, 0, 0] - 128.0) / 128
  )
  assert np.abs(default - theirs).mean() > 0.05


def test_grey_images_are_repeated_and_others_are_an_error():
  images = np.random.default_rng(4).integers(0, 256, (2, 8, 8, 1), np.uint8)
  repeated = inception.prepare(np.repeat(images, 3, axis=-1))
  np.testing.assert_array_equal(inception.prepare(images), repeated)
  with pytest.raises(errors.UserError, match=r"\[8, 8, 4\] cannot be given"):
    inception.prepare(np.zeros((1, 8, 8, 4), np.uint8))


def test_the_published_size():
  shapes = inception.shapes()
  assert shapes["fc"] == (2048, 1008)
  assert len(shapes) == 95
  # Torchvision's 23,834,568 without the auxiliary head, and 8 classes more.
  filters = {name: s for name, s in shapes.items() if name != "fc"}
  count = sum(np.prod(s) + 2 * s[-1] for s in filters.values())
  assert count + 1008 * 2049 == 23_834_568 + 8 * 2049


# The TensorFlow graph's names, as torch-fidelity lists them.
@pytest.mark.parametrize(
  ("theirs", "ours"),
  [
    ("conv", "Conv2d_1a_3x3"),
    ("conv_4", "Conv2d_4a_3x3"),
    ("mixed.conv", "Mixed_5b.branch1x1"),
    ("mixed.tower.conv_1", "Mixed_5b.branch5x5_2"),
    ("mixed_1.tower_1.conv", "Mixed_5c.branch3x3dbl_1"),
    ("mixed_2.tower_2.conv", "Mixed_5d.branch_pool"),
    ("mixed_3.conv", "Mixed_6a.branch3x3"),
    ("mixed_3.tower.conv_2", "Mixed_6a.branch3x3dbl_3"),
    ("mixed_4.conv", "Mixed_6b.branch1x1"),
    ("mixed_4.tower.conv_2", "Mixed_6b.branch7x7_3"),
    ("mixed_7.tower_1.conv_4", "Mixed_6e.branch7x7dbl_5"),
    ("mixed_8.tower.conv", "Mixed_7a.branch3x3_1"),
    ("mixed_8.tower_1.conv_3", "Mixed_7a.branch7x7x3_4"),
    ("mixed_9.tower_mixed_conv_1", "Mixed_7b.branch3x3_2b"),
    ("mixed_9.tower_1_conv_1", "Mixed_7b.branch3x3dbl_2"),
    ("mixed_10.tower_1_mixed_conv", "Mixed_7c.branch3x3dbl_3a"),
    ("mixed_10.tower_2_conv", "Mixed_7c.branch_pool"),
  ],
)
def test_names_of_the_tensorflow_graph(theirs, ours):
  convert = inception.to_torchvision
  assert convert(f"layers.{theirs}.weight") == f"{ours}.conv.weight"
  assert convert(f"layers.{theirs}.var") == f"{ours}.bn.running_var"


@pytest.mark.parametrize(
  "name",
  [
    *("layers.conv_5.weight", "layers.mixed_11.conv.beta", "layers.x.mean"),
    *("layers.mixed.tower_3.conv.weight", "layers.conv.gamma", "weight"),
  ],
)
def test_names_that_the_graph_has_not(name):
  with pytest.raises(Misfit, match=f"it has {name}, which"):
    inception.to_torchvision(name)


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"fc.weight": np.zeros((1000, 128))}, r"\[1000, 128\] and not \[1008"),
    ({"fc.bias": np.full(1008, np.nan)}, "fc.bias is not finite"),
    ({"AuxLogits.conv0.conv.weight": np.zeros(1)}, "torchvision's ImageNet"),
    ({"other": np.zeros(1)}, "it has other, which"),
    ({"Mixed_6a.branch3x3.bn.bias": None}, "no Mixed_6a.branch3x3.bn.bias"),
    ({"Conv2d_1a_3x3.conv.weight": None}, "no Conv2d_1a_3x3.conv.weight"),
  ],
)
def test_tensors_of_another_network(draw_inception, change, message):
  changed = draw_inception(width=1 / 16) | change
  changed = {n: t for n, t in changed.items() if t is not None}
  with pytest.raises(Misfit, match=message):
    inception.from_tensors(changed)


def test_counts_of_batches_are_ignored_and_gains_may_be_missing(draw_inception):
  tensors = draw_inception(width=1 / 16)
  ones = {n: np.ones_like(t) for n, t in tensors.items() if "bn.weight" in n}
  counts = {"Conv2d_1a_3x3.bn.num_batches_tracked": np.array(7)}
  expected = inception.from_tensors(tensors | ones)
  without = {n: t for n, t in tensors.items() if n not in ones}
  found = inception.from_tensors(without | counts)
  jax.tree.map(np.testing.assert_array_equal, found, expected)
