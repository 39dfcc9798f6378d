"""Reference statistics that others publish, read without executing anything.

| file | holds | from |
|---|---|---|
| `.pkl` | `{"fid": {"mu", "sigma"}, "fd_dinov2": {...}}` | EDM2 |
| `.npz` | `mu`, `sigma` | pytorch-fid, EDM |
| `.npz` | `mu`, `sigma`, `mu_s`, `sigma_s`, and images `arr_0` | ADM |
| `.npz` | images `arr_0`, and perhaps labels `arr_1` | ADM's sample batches |
| `.npy` | images | `evaluate --save-samples` |

`mu` and `sigma` are of Inception features, `mu_s` and `sigma_s` of its spatial
ones (sFID). No file states by which convention images were resized, nor how
many there were.
"""

import os
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from scm_jax import errors
from scm_jax.interop import unpickling
from scm_jax.metrics.frechet import Moments

SUFFIXES = (".npz", ".pkl", ".npy")
_EDM2 = {"fid": "inception", "fd_dinov2": "dinov2"}


class Published(NamedTuple):
  """The content of a reference file."""

  moments: Mapping[str, Moments]  # by the extractor's name
  images: np.ndarray | None = None  # uint8 [N, H, W, C]
  labels: np.ndarray | None = None  # int32 [N]
  spatial: Moments | None = None  # of Inception's spatial features


def read(path: str | os.PathLike[str]) -> Published:
  """Reads a file of statistics, of images, or of both.

  Raises:
    UserError: the file cannot be read, is damaged, or holds neither.
  """
  path = pathlib.Path(path)
  with errors.reading(path), path.open("rb") as stream:
    if path.suffix == ".pkl":
      return _from_pickle(unpickling.load(stream, unpickling.ARRAYS))
    if path.suffix == ".npy":
      images = np.load(path, mmap_mode="r", allow_pickle=False)
      return _from_arrays({"arr_0": images})
    with np.load(stream, allow_pickle=False) as file:
      wanted = ("mu", "sigma", "mu_s", "sigma_s", "arr_0", "arr_1")
      return _from_arrays({n: file[n] for n in wanted if n in file.files})


def _from_pickle(content: Any) -> Published:
  if not isinstance(content, dict):
    raise ValueError("it holds no dict of statistics")
  moments = {
    features: _gaussian(content[key].get("mu"), content[key].get("sigma"))
    for key, features in _EDM2.items()
    if isinstance(content.get(key), dict)
  }
  if not moments:
    raise ValueError(f"it has none of {', '.join(_EDM2)}")
  return Published(moments)


def _from_arrays(found: Mapping[str, np.ndarray]) -> Published:
  moments, images, labels = {}, found.get("arr_0"), found.get("arr_1")
  if "mu" in found or "sigma" in found:
    moments["inception"] = _gaussian(found.get("mu"), found.get("sigma"))
  spatial = None
  if "mu_s" in found and "sigma_s" in found:
    spatial = _gaussian(found["mu_s"], found["sigma_s"])
  if images is not None:
    if images.dtype != np.uint8 or images.ndim != 4 or not len(images):
      raise ValueError(
        f"its images are {images.dtype} {list(images.shape)}, not uint8 "
        "[N, H, W, C]"
      )
    if labels is not None and labels.shape != images.shape[:1]:
      raise ValueError("it has not as many labels as images")
  if not moments and images is None:
    raise ValueError("it has neither mu and sigma nor arr_0")
  labels = None if labels is None else labels.astype(np.int32)
  return Published(moments, images, labels, spatial)


def _gaussian(mean: Any, covariance: Any) -> Moments:
  mean, covariance = (
    np.asarray(getattr(value, "value", value)) for value in (mean, covariance)
  )
  kinds = {mean.dtype.kind, covariance.dtype.kind}
  if kinds != {"f"} or covariance.shape != 2 * mean.shape or mean.ndim != 1:
    raise ValueError(
      f"mu {list(mean.shape)} and sigma {list(covariance.shape)} are not a "
      "mean and a covariance"
    )
  mean, covariance = mean.astype(np.float64), covariance.astype(np.float64)
  if not (np.isfinite(mean).all() and np.isfinite(covariance).all()):
    raise ValueError("mu or sigma is not finite")
  uneven = np.abs(covariance - covariance.T).max()
  if uneven > 1e-3 * np.abs(covariance).max():
    raise ValueError("sigma is not symmetric")
  return Moments(None, mean, (covariance + covariance.T) / 2)
