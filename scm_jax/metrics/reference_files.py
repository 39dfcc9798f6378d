"""Reference statistics that others publish, read without executing anything.

| file | holds | from |
|---|---|---|
| `.pkl` | `{"fid": {"mu", "sigma"}, "fd_dinov2": {...}}` | EDM2 |
| `.npz` | `mu`, `sigma` | pytorch-fid, EDM |
| `.npz` | `mu`, `sigma`, `mu_s`, `sigma_s`, and images `arr_0` | ADM |
| `.npz` | images `arr_0`, and perhaps labels `arr_1` | ADM's sample batches |
| `.npy` | images | `evaluate --save-samples` |

`mu` and `sigma` are of Inception features; the file does not say by which
convention images were resized, so its origin has to, nor of how many samples
they are. ADM's `mu_s` and `sigma_s` (sFID) are left out.
"""

import dataclasses
import os
import pathlib
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np

from scm_jax.errors import UserError
from scm_jax.interop import arrays, unpickling
from scm_jax.metrics.frechet import Gaussian

SUFFIXES = (".npz", ".pkl", ".npy")
_EDM2 = {"fid": "inception", "fd_dinov2": "dinov2"}


@dataclasses.dataclass(frozen=True)
class Published:
  """What a file holds.

  Attributes:
    moments: mean and covariance by feature space.
    images: uint8 [N, H, W, C] or None.
    labels: int32 [N] or None.
  """

  moments: Mapping[str, Gaussian]
  images: np.ndarray | None = None
  labels: np.ndarray | None = None


def read(path: str | os.PathLike[str]) -> Published:
  """Reads a file of statistics, of images, or both.

  Raises:
    UserError: it cannot be read, is damaged, or holds neither.
  """
  path = pathlib.Path(path)
  try:
    if path.suffix == ".pkl":
      return _pickled(path)
    if path.suffix == ".npy":
      images = np.load(path, mmap_mode="r", allow_pickle=False)
      found: Mapping[str, np.ndarray] = {"arr_0": images}
    else:
      with np.load(path, allow_pickle=False) as file:
        wanted = ("mu", "sigma", "arr_0", "arr_1")
        found = {name: file[name] for name in wanted if name in file.files}
    return _arrays(found)
  except OSError as error:
    reason = error.strerror or error
    raise UserError(f"cannot read the reference {path}: {reason}") from error
  except (ValueError, EOFError, zipfile.BadZipFile) as error:
    raise UserError(f"the reference {path} cannot be used: {error}") from error
  except unpickling.Refused as error:
    raise UserError(f"the reference {path} is refused: {error}") from error


def _pickled(path: pathlib.Path) -> Published:
  with path.open("rb") as file:
    content = unpickling.load(file, arrays.ARRAYS)
  if not isinstance(content, dict):
    raise ValueError("it is no dict of statistics")
  moments = {
    space: _gaussian(content[key].get("mu"), content[key].get("sigma"))
    for key, space in _EDM2.items()
    if isinstance(content.get(key), dict)
  }
  if not moments:
    raise ValueError(f"it has none of {', '.join(_EDM2)}")
  return Published(moments)


def _arrays(found: Mapping[str, np.ndarray]) -> Published:
  moments, images, labels = {}, found.get("arr_0"), found.get("arr_1")
  if "mu" in found or "sigma" in found:
    moments["inception"] = _gaussian(found.get("mu"), found.get("sigma"))
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
  return Published(
    moments, images, None if labels is None else labels.astype(np.int32)
  )


def _gaussian(mean: Any, covariance: Any) -> Gaussian:
  mean, covariance = (
    np.asarray(getattr(value, "value", value)) for value in (mean, covariance)
  )
  kinds = {mean.dtype.kind, covariance.dtype.kind}
  if kinds != {"f"} or covariance.shape != 2 * mean.shape or mean.ndim != 1:
    raise ValueError(
      f"mu {list(mean.shape)} and sigma {list(covariance.shape)} are no mean "
      "and covariance"
    )
  mean, covariance = mean.astype(np.float64), covariance.astype(np.float64)
  if not (np.isfinite(mean).all() and np.isfinite(covariance).all()):
    raise ValueError("mu or sigma is not finite")
  uneven = np.abs(covariance - covariance.T).max()
  if uneven > 1e-3 * np.abs(covariance).max():
    raise ValueError("sigma is not symmetric")
  return Gaussian(mean, (covariance + covariance.T) / 2)
