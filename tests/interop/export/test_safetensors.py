"""Our reader and writer of safetensors, against the package's own."""

import io

import ml_dtypes
import numpy as np
import pytest

from scm_jax.errors import UserError
from scm_jax.interop import safetensors

TENSORS = {
  "half": np.arange(3, dtype=np.float16),
  "brain": np.arange(5, dtype=ml_dtypes.bfloat16).reshape(5, 1),
  "a/b": np.arange(6, dtype=np.float32).reshape(2, 3),
  "scalar": np.array(1.5, np.float32),
  "none": np.zeros((0, 4), np.float32),
  "index": np.array([-1, 2], np.int64),
}


@pytest.fixture
def file(tmp_path):
  path = tmp_path / "x.safetensors"
  with path.open("wb") as stream:
    safetensors.write(stream, TENSORS, {"by": "us"})
  return path


def assert_same(found):
  assert found.keys() == TENSORS.keys()
  for name, tensor in TENSORS.items():
    assert found[name].dtype == tensor.dtype, name
    np.testing.assert_array_equal(found[name], tensor)


def test_round_trip(file):
  found, metadata = safetensors.read(file)
  assert_same(found)
  assert metadata == {"by": "us"}
  assert all(t.ctypes.data % t.itemsize == 0 for t in found.values())


def test_others_read_ours_and_we_read_theirs(file, tmp_path):
  package = pytest.importorskip("safetensors.numpy")
  assert_same(package.load_file(file))
  package.save_file(TENSORS, tmp_path / "theirs", {"by": "them"})
  found, metadata = safetensors.read(tmp_path / "theirs")
  assert_same(found)
  assert metadata == {"by": "them"}


def test_nothing_at_all(tmp_path):
  stream = io.BytesIO()
  safetensors.write(stream, {})
  (tmp_path / "x").write_bytes(stream.getvalue())
  assert safetensors.read(tmp_path / "x") == ({}, {})


@pytest.mark.parametrize("kept", [0, 5, 40, -1])
def test_a_file_cut_short(kept, file):
  file.write_bytes(file.read_bytes()[:kept])
  with pytest.raises(UserError, match="not a whole safetensors file"):
    safetensors.read(file)


def test_a_file_of_something_else(tmp_path):
  (tmp_path / "x").write_bytes(b"\x80\x04" * 100)
  with pytest.raises(UserError, match="not a whole safetensors file"):
    safetensors.read(tmp_path / "x")
  with pytest.raises(UserError, match="No such file"):
    safetensors.read(tmp_path / "y")
