"""Pickles that PyTorch itself writes; runs where it is installed."""

import io
import pickle

import numpy as np
import pytest

from scm_jax.interop import edm2, state_dict, unpickling

torch = pytest.importorskip("torch")


@pytest.fixture(scope="module")
def written(forgery):
  """`written(save, dtype)`: tensors by name, and a network pickled whole."""

  class Persistent(torch.nn.Module):
    """A module that pickles as EDM2's persistent classes do."""

    def __reduce__(self):
      meta = {
        "type": "class",
        "version": 6,
        "module_src": forgery.SOURCE,
        "class_name": type(self).__name__,
        "state": super().__reduce__()[2],
      }
      return forgery.RECONSTRUCT, (meta,), None

  class MPConv(Persistent):
    def __init__(self, *shape):
      super().__init__()
      self.weight = torch.nn.Parameter(torch.randn(*shape))

  class MPFourier(Persistent):
    def __init__(self, width):
      super().__init__()
      self.register_buffer("freqs", torch.randn(width))
      self.register_buffer("phases", torch.rand(width))

  class Block(Persistent):
    def __init__(self):
      super().__init__()
      self.num_heads, self.out_channels = 2, 8
      self.res_balance = self.attn_balance = 0.3
      self.clip_act, self.resample_filter = 256, [1, 1]
      self.emb_gain = torch.nn.Parameter(torch.zeros([]))
      self.conv_res0 = MPConv(8, 8, 3, 3)
      self.conv_skip = None

  class UNet(Persistent):
    def __init__(self):
      super().__init__()
      self.label_balance = self.concat_balance = 0.5
      self.out_gain = torch.nn.Parameter(torch.ones([]))
      self.emb_fourier = MPFourier(8)
      self.enc = torch.nn.ModuleDict({"8x8_block0": Block()})

  class Precond(Persistent):
    def __init__(self):
      super().__init__()
      self.img_resolution, self.img_channels, self.label_dim = 8, 3, 10
      self.sigma_data = 0.5
      self.unet = UNet()

  def write(save, dtype):
    network = Precond().eval().requires_grad_(False).to(dtype)
    tensors = {k: v.numpy() for k, v in network.state_dict().items()}
    with forgery.named(forgery.OURS):
      data = save({"ema": network, "encoder": forgery.pixels()})
    return tensors, data

  return write


def torch_save(zipped):
  def save(obj):
    file = io.BytesIO()
    torch.save(obj, file, _use_new_zipfile_serialization=zipped)
    return file.getvalue()

  return save


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
@pytest.mark.parametrize(
  "save", [pickle.dumps, torch_save(True), torch_save(False)]
)
def test_tensors(save, dtype, written, tmp_path):
  tensors, data = written(save, dtype)
  path = tmp_path / "network.pkl"
  path.write_bytes(data)
  found = edm2.read(str(path))
  assert found.tensors.keys() == tensors.keys() and len(tensors) == 5
  for name, array in tensors.items():
    np.testing.assert_array_equal(found.tensors[name], array)
  assert found.channels_per_head == 4 and found.classes == 10


def test_tensors_that_share_a_storage(written, tmp_path):
  """Views of one storage, as of a network that was never copied."""
  base = torch.arange(12.0).reshape(3, 4)
  file = io.BytesIO(pickle.dumps({"a": base.T, "b": base[1:, ::2]}))
  found = unpickling.load(file, state_dict.ADMITTED)
  np.testing.assert_array_equal(found["a"], base.T.numpy())
  np.testing.assert_array_equal(found["b"], base[1:, ::2].numpy())
