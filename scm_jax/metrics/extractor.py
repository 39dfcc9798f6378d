"""Feature extractors: from uint8 images to the vectors that metrics compare.

An extractor is parameters, and a pure function of them and of a batch. The
registry of extractors is `extractors`.
"""

import dataclasses
import hashlib
import json
import os
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import jax
import numpy as np
from jax import Array


class Extractor(Protocol):
  """Maps images to features."""

  @property
  def name(self) -> str:
    """Returns the key of its scores in reports."""
    ...

  @property
  def dim(self) -> int:
    """Returns the number of features."""
    ...

  @property
  def outputs(self) -> tuple[str, ...]:
    """Returns the names of what `apply` returns."""
    ...

  @property
  def params(self) -> Any:
    """Returns the first argument of `apply`, a tree of arrays."""
    ...

  def apply(self, params: Any, images: Array) -> dict[str, Array]:
    """Computes features of uint8 images [B, H, W, C]; pure, to be compiled.

    Returns:
      `features`, float32 [B, dim]; `logits` [B, K] of a classifier; and other
      outputs [B, ...] that metrics may need. The outputs of a sample depend on
      no other sample of the batch.
    """
    ...


@dataclasses.dataclass(frozen=True)
class Source:
  """Everything that extractors are made of.

  Attributes:
    image_shape: (H, W, C) of the images to be scored.
    labelled: reads a dataset's images, uint8 [N, H, W, C], and labels [N], on
      which a classifier is trained.
    weights: files of the published networks, by extractor name.
    cache: folder of trained classifiers.
  """

  image_shape: tuple[int, int, int]
  labelled: Callable[[], tuple[np.ndarray, np.ndarray]]
  weights: Mapping[str, str]
  cache: str | os.PathLike[str]


def fingerprint(extractor: Extractor) -> str:
  """Returns a hex digest of everything that an extractor's features depend on.

  That is its parameters, and the plain fields of an extractor that is a
  dataclass.
  """
  plain: dict[str, Any] = {"name": extractor.name, "dim": extractor.dim}
  if dataclasses.is_dataclass(extractor):
    for field in dataclasses.fields(extractor):
      value = getattr(extractor, field.name)
      if isinstance(value, bool | int | float | str | tuple):
        plain[field.name] = value
  digest = hashlib.sha256(json.dumps(plain, sort_keys=True).encode())
  for path, leaf in jax.tree_util.tree_leaves_with_path(extractor.params):
    leaf = np.asarray(leaf)
    digest.update(f"{jax.tree_util.keystr(path)} {leaf.shape}".encode())
    digest.update(np.ascontiguousarray(leaf).tobytes())
  return digest.hexdigest()
