"""Published files of statistics and of images; damaged and hostile ones."""

import pickle

import numpy as np
import pytest

from scm_jax import errors
from scm_jax.metrics import reference_files


@pytest.fixture
def moments():
  x = np.random.default_rng(0).normal(size=(40, 6))
  return {"mu": x.mean(axis=0), "sigma": np.cov(x.T)}


def _check(found, moments):
  np.testing.assert_array_equal(found.mean, moments["mu"])
  np.testing.assert_allclose(found.covariance, moments["sigma"], rtol=1e-14)
  assert found.n is None


def test_edm2s(moments, tmp_path):
  other = {"mu": moments["mu"] + 1, "sigma": moments["sigma"] * 2}
  path = tmp_path / "img512.pkl"
  path.write_bytes(pickle.dumps({"fid": moments, "fd_dinov2": other}))
  found = reference_files.read(path)
  assert found.images is found.labels is None
  _check(found.moments["inception"], moments)
  _check(found.moments["dinov2"], other)


def test_pytorch_fids(moments, tmp_path):
  np.savez(tmp_path / "fid.npz", **moments)
  found = reference_files.read(tmp_path / "fid.npz")
  assert list(found.moments) == ["inception"] and found.images is None
  _check(found.moments["inception"], moments)


def test_adms(moments, tmp_path):
  """ADM's file has moments of the dataset and some images."""
  images = np.zeros((5, 8, 8, 3), np.uint8)
  spatial = {"mu_s": np.zeros(3), "sigma_s": np.eye(3)}
  path = tmp_path / "VIRTUAL_imagenet64_labeled.npz"
  np.savez(path, arr_0=images, arr_1=np.arange(5), **moments, **spatial)
  found = reference_files.read(path)
  _check(found.moments["inception"], moments)
  assert found.images.shape == (5, 8, 8, 3)
  assert found.labels.tolist() == [0, 1, 2, 3, 4]


def test_images_alone(tmp_path):
  images = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 1), np.uint8)
  np.savez(tmp_path / "samples.npz", arr_0=images)
  np.save(tmp_path / "samples.npy", images)
  for name in ("samples.npz", "samples.npy"):
    found = reference_files.read(tmp_path / name)
    assert found.moments == {} and found.labels is None
    np.testing.assert_array_equal(found.images, images)


class _Evil:
  def __reduce__(self):
    return print, ("executed",)


@pytest.mark.parametrize(
  "content, said",
  [
    ({"arr_0": np.array([_Evil()], object)}, "x.npz: .*Object arrays"),
    ({"mu": np.zeros(3)}, r"mu \[3\] and sigma \[\] are not a mean"),
    ({"mu": np.zeros(3), "sigma": np.eye(4)}, r"sigma \[4, 4\] are not a mean"),
    ({"mu": np.full(2, np.nan), "sigma": np.eye(2)}, "not finite"),
    ({"mu": np.zeros(2), "sigma": np.array([[1.0, 1], [0, 1]])}, "symmetric"),
    ({"arr_0": np.zeros((3, 8, 8, 3))}, "images are float64"),
    ({"other": np.zeros(3)}, "neither mu and sigma nor arr_0"),
  ],
)
def test_npz_files_that_will_not_do(content, said, tmp_path, capfd):
  np.savez(tmp_path / "x.npz", **content)
  with pytest.raises(errors.UserError, match=said):
    reference_files.read(tmp_path / "x.npz")
  assert "executed" not in capfd.readouterr().out


@pytest.mark.parametrize(
  "content, said",
  [
    (pickle.dumps({"fid": _Evil()}), "it names builtins.print"),
    (pickle.dumps([1]), "no dict of statistics"),
    (pickle.dumps({"sfid": {}}), "none of fid, fd_dinov2"),
    (pickle.dumps({"fid": {"mu": 1.0}}), "not a mean and a covariance"),
    (b"\x80\x04", "x.pkl"),
  ],
)
def test_pickles_that_will_not_do(content, said, tmp_path, capfd):
  (tmp_path / "x.pkl").write_bytes(content)
  with pytest.raises(errors.UserError, match=said):
    reference_files.read(tmp_path / "x.pkl")
  assert "executed" not in capfd.readouterr().out


def test_files_that_are_not_there_or_cut_short(tmp_path, moments):
  with pytest.raises(errors.UserError, match="No such file"):
    reference_files.read(tmp_path / "no.npz")
  np.savez(tmp_path / "x.npz", **moments)
  data = (tmp_path / "x.npz").read_bytes()
  (tmp_path / "x.npz").write_bytes(data[: len(data) // 2])
  with pytest.raises(errors.UserError, match="x.npz"):
    reference_files.read(tmp_path / "x.npz")
