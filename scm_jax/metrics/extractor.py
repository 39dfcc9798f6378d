"""Feature extractors: from uint8 images to the vectors that metrics compare."""

import dataclasses
import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax import Array

from scm_jax.errors import ConfigError, UserError

# Extractors that confirm what others say: nothing is chosen by their features.
JUDGES = frozenset({"judge", "random"})


@dataclasses.dataclass(frozen=True, eq=False)
class Extractor:
  """A map from images to features: parameters and a pure function.

  `apply(params, images)`, of uint8 images [B, H, W, C], returns `features`,
  float32 [B, dim]; `logits` [B, K] of a classifier, and the `label` [B] that it
  finds; and other outputs [B, ...] that metrics may need. A sample's outputs
  depend on no other of the batch. The settings are what features depend on
  beside the name, `dim` and parameters; the facts are what a report says.
  """

  name: str  # the key of its scores in reports
  dim: int  # number of features
  params: Any  # a tree of arrays
  apply: Callable[[Any, Array], dict[str, Array]]
  outputs: tuple[str, ...] = ("features",)  # the names of what `apply` returns
  settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)

  def checked(self, outputs: Any, count: int) -> dict[str, Array]:
    """Returns what `apply` returned for `count` images, if it is as stated.

    Raises:
      ConfigError: it is not; see the class.
    """
    known = outputs if isinstance(outputs, dict) else {}
    features = getattr(known.get("features"), "shape", None)
    if features != (count, self.dim):
      raise ConfigError(
        f"the extractor {self.name!r} gives for {count} images no 'features' "
        f"of [{count}, {self.dim}], its `dim`, but "
        f"{list(features) if features else 'none'}"
      )
    for name in {*self.outputs, *known}:
      shape = getattr(known.get(name), "shape", ())
      if name not in self.outputs or shape[:1] != (count,):
        raise ConfigError(
          f"the extractor {self.name!r} states the outputs "
          f"{', '.join(self.outputs)}, each of one entry for an image, and "
          f"{name!r} is not so"
        )
    return known

  def fingerprint(self) -> str:
    """Returns a hex digest of everything that the features depend on."""
    plain = {"name": self.name, "dim": self.dim, **self.settings}
    digest = hashlib.sha256(json.dumps(plain, sort_keys=True).encode())
    for path, leaf in jax.tree_util.tree_leaves_with_path(self.params):
      leaf = np.asarray(leaf)
      digest.update(f"{jax.tree_util.keystr(path)} {leaf.shape}".encode())
      digest.update(np.ascontiguousarray(leaf).tobytes())
    return digest.hexdigest()


def check_shape(images: Array, shape: Sequence[int]) -> None:
  """Raises UserError unless images [B, H, W, C] are of a shape (H, W, C)."""
  if images.shape[1:] != tuple(shape):
    raise UserError(
      f"images of {list(images.shape[1:])} cannot be compared with images of "
      f"{list(shape)}"
    )


@dataclasses.dataclass(frozen=True)
class Source:
  """Everything that extractors are made of.

  A classifier is trained on what `labelled` reads: a dataset's images, uint8
  [N, H, W, C], and labels [N].
  """

  image_shape: tuple[int, int, int]  # (H, W, C) of the images to be scored
  labelled: Callable[[], tuple[np.ndarray, np.ndarray]]
  weights: Mapping[str, str]  # files of published networks, by extractor name
  cache: str | os.PathLike[str]  # folder of trained classifiers
