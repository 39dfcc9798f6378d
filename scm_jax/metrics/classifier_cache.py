"""Keeps trained feature classifiers on disk, one file per data and settings.

Scores of different runs compare only if they use the same features, so the
classifier is trained once and found again by a fingerprint of everything that
determines it.
"""

import dataclasses
import hashlib
import io
import json
import logging
import os
import pathlib
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from scm_jax import files
from scm_jax.errors import UserError
from scm_jax.metrics.classifier import (
  Classifier,
  Settings,
  make_network,
)
from scm_jax.metrics.classifier_training import check_labelled, train

_LOG = logging.getLogger(__name__)
_FORMAT = 1  # of network and file; part of the fingerprint
# What reading a damaged zip archive of arrays can raise, depending on the byte.
_DAMAGED = (
  ValueError,
  KeyError,
  OSError,
  EOFError,
  RuntimeError,
  zipfile.BadZipFile,
)
_PARAMS = "params/"  # prefix of the parameters' names in the file


def load_or_train(
  images: np.ndarray,
  labels: np.ndarray,
  cache_dir: str | os.PathLike[str],
  settings: Settings | None = None,
) -> Classifier:
  """The classifier for these images and settings, from the cache if it can.

  A cache file that is damaged or belongs to other data is replaced, with one
  line in the log. A cache that cannot be written costs one warning, and the
  next caller its training time, but not this caller's result.

  Args:
    images: [N, H, W, C] uint8.
    labels: [N] integers from 0.
    cache_dir: where cache files live; made if needed.
    settings: how to train.

  Returns:
    The classifier.
  """
  images, labels = np.asarray(images), np.asarray(labels)
  check_labelled(images, labels)
  settings = settings or Settings()
  expected = fingerprint(images, labels, settings)
  path = pathlib.Path(cache_dir) / f"classifier_{expected[:16]}.npz"
  if path.exists():
    try:
      return _load(path, expected, settings)
    except _DAMAGED as error:
      reason = (str(error) or type(error).__name__).splitlines()[0]
      _LOG.warning("retraining the classifier: %s: %s", path, reason)
  classifier = train(images, labels, settings)
  try:
    files.write_bytes(path, _serialize(classifier, expected))
  except UserError as error:
    _LOG.warning("the classifier is not cached: %s", error)
  return classifier


def fingerprint(
  images: np.ndarray, labels: np.ndarray, settings: Settings
) -> str:
  """Hex digest of everything that determines a classifier."""
  head = {
    "format": _FORMAT,
    "shape": list(images.shape),
    **dataclasses.asdict(settings),
  }
  digest = hashlib.sha256(json.dumps(head, sort_keys=True).encode())
  digest.update(np.ascontiguousarray(images).tobytes())
  digest.update(np.ascontiguousarray(labels, dtype=np.int64).tobytes())
  return digest.hexdigest()


def _serialize(classifier: Classifier, digest: str) -> bytes:
  """The content of a cache file."""
  flat = traverse_util.flatten_dict(classifier.params, sep="/")
  buffer = io.BytesIO()
  np.savez(
    buffer,
    fingerprint=digest,
    num_classes=classifier.num_classes,
    image_shape=classifier.image_shape,
    accuracy=classifier.accuracy,
    scale=classifier.scale,
    **{_PARAMS + name: value for name, value in flat.items()},
  )
  return buffer.getvalue()


def _load(path: pathlib.Path, digest: str, settings: Settings) -> Classifier:
  """Reads a cache file; raises ValueError, KeyError or OSError if damaged."""
  with np.load(path, allow_pickle=False) as file:
    height, width, channels = (int(size) for size in file["image_shape"])
    if str(file["fingerprint"]) != digest:
      raise ValueError("it belongs to other data or settings")
    flat = {
      name.removeprefix(_PARAMS): file[name]
      for name in file.files
      if name.startswith(_PARAMS)
    }
    classifier = Classifier(
      params=traverse_util.unflatten_dict(flat, sep="/"),
      num_classes=int(file["num_classes"]),
      image_shape=(height, width, channels),
      settings=settings,
      accuracy=float(file["accuracy"]),
      scale=float(file["scale"]),
    )
  expected = _parameter_shapes(classifier)
  found = jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), classifier.params)
  if found != expected:
    raise ValueError("its parameters do not fit the network")
  return classifier


def _parameter_shapes(classifier: Classifier) -> dict:
  """Shape and type of every parameter, without computing anything."""
  network = make_network(classifier.settings, classifier.num_classes)
  image = jnp.zeros((1, *classifier.image_shape))
  shapes = jax.eval_shape(network.init, jax.random.key(0), image)["params"]
  return jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), shapes)
