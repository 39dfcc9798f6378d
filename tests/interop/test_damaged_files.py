"""Damaged files of every kind end in one line that names the file."""

import io
import json
import pathlib
import pickle
import warnings
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from scm_jax.errors import UserError
from scm_jax.interop import edm2, safetensors, state_dict
from scm_jax.metrics import reference_files
from scm_jax.preparing import file_source, transform

DAMAGES = 400  # damaged copies of each file


def damaged(data: bytes, rng: np.random.Generator) -> bytes:
  """Returns the data cut short, or with bytes changed, added, or left out."""
  place = int(rng.integers(len(data)))
  extent = int(rng.integers(1, 9))
  some = rng.bytes(extent)
  kind = rng.choice(["cut", "change", "insert", "remove"])
  if kind == "cut":
    return data[:place]
  if kind == "insert":
    return data[:place] + some + data[place:]
  if kind == "remove":
    return data[:place] + data[place + extent :]
  return data[:place] + some + data[place + extent :]


def moments() -> dict[str, np.ndarray]:
  return {"mu": np.ones(3), "sigma": np.eye(3)}


def npz() -> bytes:
  stream = io.BytesIO()
  np.savez(stream, **moments())
  return stream.getvalue()


def compressed_npz() -> bytes:
  stream = io.BytesIO()
  np.savez_compressed(stream, arr_0=np.zeros((2, 4, 4, 3), np.uint8))
  return stream.getvalue()


def npy(array: np.ndarray) -> bytes:
  stream = io.BytesIO()
  np.save(stream, array)
  return stream.getvalue()


def small_safetensors() -> bytes:
  stream = io.BytesIO()
  safetensors.write(stream, {"a": np.ones((2, 2), np.float32)}, {"by": "us"})
  return stream.getvalue()


def zipped_latents() -> bytes:
  """Returns a zip file of one image's latents and of its label."""
  stream = io.BytesIO()
  with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
    archive.writestr("img.npy", npy(np.zeros((8, 1, 1), np.float32)))
    archive.writestr("dataset.json", json.dumps({"labels": [["img.npy", 1]]}))
  return stream.getvalue()


def prepare_latents(path: pathlib.Path) -> None:
  """Reads a zip file of latents as `scm-jax prepare` does."""
  source = file_source.ZipSource(str(path))
  how = transform.Transform("latents", 8, 3, "adm")
  try:
    for item in source.index().items:
      if error := transform.prepare(source, how, item).error:
        raise UserError(error)
  except UserError as error:  # it names the file in the zip file
    raise UserError(f"{path}: {error}") from error


@pytest.fixture(scope="module")
def state_dicts(forgery) -> dict[str, bytes]:
  """A state dict in both formats of `torch.save`, by the format's name."""
  tensors = {"weight": np.ones((2, 3), np.float32), "bias": np.zeros(3, "f4")}
  state = {name: forgery.tensor(value) for name, value in tensors.items()}
  return {
    "zip.pth": forgery.zip_archive(state),
    "legacy.pth": forgery.legacy_archive(state),
  }


@pytest.fixture(scope="module")
def network(forgery, small, draw_params) -> bytes:
  """A network pickle as EDM2 writes it."""
  ema = forgery.network(draw_params(small()), small())
  return forgery.plain(forgery.snapshot(ema, forgery.latents()))


@pytest.fixture
def check(tmp_path) -> Callable[..., None]:
  """`check(name, data, read)` reads damaged copies of a file."""

  def run(name: str, data: bytes, read: Callable[[pathlib.Path], Any]) -> None:
    rng = np.random.default_rng(0)
    path = tmp_path / name
    path.write_bytes(data)
    read(path)  # the whole file can be read
    refused = 0
    for _ in range(DAMAGES):
      path.write_bytes(damaged(data, rng))
      with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        warnings.simplefilter("ignore", RuntimeWarning)  # enormous numbers
        try:
          read(path)
        except UserError as error:
          message = str(error)
          assert "\n" not in message and str(path) in message
          refused += 1
      assert not warned, warned[0].message
    assert refused > DAMAGES // 4

  return run


@pytest.mark.parametrize(
  ("name", "data"),
  [
    ("moments.npz", npz()),
    ("images.npz", compressed_npz()),
    ("images.npy", npy(np.zeros((2, 4, 4, 3), np.uint8))),
    ("moments.pkl", pickle.dumps({"fid": moments()})),
  ],
)
def test_reference_files(name, data, check):
  check(name, data, reference_files.read)


def test_latents_to_be_prepared(check):
  check("latents.zip", zipped_latents(), prepare_latents)


@pytest.mark.parametrize("name", ["zip.pth", "legacy.pth"])
def test_torch_archives(name, state_dicts, check):
  check(name, state_dicts[name], state_dict.read)


def test_safetensors(check):
  check("weights.safetensors", small_safetensors(), state_dict.read)


def test_network_pickles(network, check):
  check("network.pkl", network, edm2.read)
