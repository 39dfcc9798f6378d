"""Trains the feature classifier, and caches it on disk.

Scores of different runs compare only if they use the same features, so the
classifier is trained once and found again by a fingerprint of everything that
determines it.
"""

import dataclasses
import functools
import hashlib
import json
import logging
import os
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from scm_jax.errors import UserError
from scm_jax.image_grid import check_images
from scm_jax.metrics import array_file, multihost
from scm_jax.metrics.classifier import (
  Classifier,
  ClassifierExtractor,
  FeatureNet,
  Settings,
  make_network,
  normalize,
)
from scm_jax.metrics.extractor import Source
from scm_jax.metrics.statistic import Arrays

_LOG = logging.getLogger(__name__)
_FORMAT = 1  # version of network and file; part of the fingerprint
_PARAMS = "params/"  # prefix of the parameters' names in the file
_DEFAULT = Settings()


def extractor(source: Source) -> ClassifierExtractor:
  """Returns the classifier of a dataset, cached or trained, as an extractor.

  All processes must call it together: classifiers trained by two of them would
  differ by rounding, so process 0 trains one for all.
  """
  trained = multihost.from_process_zero(
    lambda: load_or_train(*source.labelled(), source.cache)
  )
  return ClassifierExtractor(trained)


def load_or_train(
  images: np.ndarray,
  labels: np.ndarray,
  cache: str | os.PathLike[str],
  settings: Settings = _DEFAULT,
) -> Classifier:
  """Returns the classifier of these images, from the cache if it is there.

  A cache file that is damaged or belongs to other data is replaced, after a
  warning. If the cache cannot be written, a warning is all that happens.

  Args:
    images: [N, H, W, C] uint8.
    labels: [N] integers from 0.
    cache: the folder of cache files, which is made if needed.
    settings: how the classifier is trained.

  Raises:
    UserError: a classifier cannot be trained on these images and labels.
  """
  images, labels = np.asarray(images), np.asarray(labels)
  check_labelled(images, labels)
  digest = fingerprint(images, labels, settings)
  path = pathlib.Path(cache) / f"classifier_{digest[:16]}.npz"
  parse = functools.partial(_from_arrays, digest=digest, settings=settings)
  if cached := array_file.read_cached(path, parse):
    return cached
  classifier = train(images, labels, settings)
  try:
    array_file.write_arrays(path, _to_arrays(classifier, digest))
  except UserError as error:
    _LOG.warning("the classifier is not cached: %s", error)
  return classifier


def train(
  images: np.ndarray, labels: np.ndarray, settings: Settings = _DEFAULT
) -> Classifier:
  """Trains a classifier on a random split of the images.

  Args:
    images: [N, H, W, C] uint8.
    labels: [N] integers from 0; the largest sets the number of classes.
    settings: how it is trained.

  Returns:
    The classifier, with its accuracy on the held-out images.

  Raises:
    UserError: a classifier cannot be trained on these images and labels.
  """
  images, labels = np.asarray(images), np.asarray(labels)
  check_labelled(images, labels)
  rng = np.random.default_rng(settings.seed)
  order = rng.permutation(len(images))
  held = max(1, round(settings.held_out * len(images)))
  held_out, training = order[:held], order[held:]
  num_classes = int(labels.max()) + 1
  network = make_network(settings, num_classes)
  params = _fit(network, images[training], labels[training], settings, rng)
  features, _ = _apply_in_batches(network, params, images[training])
  _, logits = _apply_in_batches(network, params, images[held_out])
  spread = float(features.astype(np.float64).var(axis=0).mean())
  return Classifier(
    params=params,
    num_classes=num_classes,
    image_shape=images.shape[1:],
    settings=settings,
    accuracy=float(np.mean(logits.argmax(axis=-1) == labels[held_out])),
    scale=1.0 / max(spread, 1e-12) ** 0.5,
  )


def check_labelled(images: np.ndarray, labels: np.ndarray) -> None:
  """Raises UserError unless a classifier can be trained on labelled images."""
  check_images(images, "the classifier's images")
  if labels.shape != images.shape[:1] or labels.dtype.kind not in "iu":
    raise UserError(
      f"a classifier needs one integer label per image: {len(images)} images, "
      f"labels {labels.dtype} {list(labels.shape)}"
    )
  if labels.min() < 0 or labels.min() == labels.max():
    raise UserError(
      "a classifier needs labels from 0 and at least two classes, and the "
      f"labels range from {labels.min()} to {labels.max()}"
    )


def _fit(
  network: FeatureNet,
  images: np.ndarray,
  labels: np.ndarray,
  settings: Settings,
  rng: np.random.Generator,
) -> Any:
  """Returns the parameters after all steps of AdamW on augmented images."""
  import optax  # only training needs it

  schedule = optax.cosine_decay_schedule(settings.learning_rate, settings.steps)
  optimizer = optax.adamw(schedule, weight_decay=settings.weight_decay)

  @jax.jit
  def step(params, opt_state, batch, targets, key):
    batch = _augment(key, normalize(batch), settings.noise)

    def loss_fn(params):
      logits = network.apply({"params": params}, batch)[1]
      return optax.softmax_cross_entropy_with_integer_labels(
        logits, targets
      ).mean()

    updates, opt_state = optimizer.update(
      jax.grad(loss_fn)(params), opt_state, params
    )
    return optax.apply_updates(params, updates), opt_state

  key = jax.random.key(settings.seed)
  params = network.init(key, normalize(images[:1]))["params"]
  opt_state = optimizer.init(params)
  batches = _batches(len(images), settings, rng)
  for index, chosen in enumerate(batches, start=1):
    params, opt_state = step(
      params,
      opt_state,
      images[chosen],
      labels[chosen].astype(np.int32),
      jax.random.fold_in(key, index),
    )
  return jax.device_get(params)


@functools.partial(jax.jit, static_argnums=0)
def _forward(network: FeatureNet, params: Any, images: jax.Array):
  return network.apply({"params": params}, normalize(images))


def _apply_in_batches(
  network: FeatureNet, params: Any, images: np.ndarray, size: int = 256
) -> tuple[np.ndarray, np.ndarray]:
  """Returns the features and logits of all images, by one compiled program."""
  outputs = []
  for start in range(0, len(images), size):
    part = images[start : start + size]
    missing = size - len(part)
    padded = np.pad(part, ((0, missing), (0, 0), (0, 0), (0, 0)))
    features, logits = _forward(network, params, padded)
    outputs.append(
      (np.asarray(features)[: len(part)], np.asarray(logits)[: len(part)])
    )
  features, logits = zip(*outputs, strict=True)
  return np.concatenate(features), np.concatenate(logits)


def _batches(
  count: int, settings: Settings, rng: np.random.Generator
) -> np.ndarray:
  """Returns [steps, batch_size] indices: one shuffled epoch after another."""
  needed = settings.steps * settings.batch_size
  epochs = [rng.permutation(count) for _ in range(-(-needed // count))]
  return np.concatenate(epochs)[:needed].reshape(settings.steps, -1)


def _augment(key: jax.Array, images: jax.Array, noise: float) -> jax.Array:
  """Shifts [B, H, W, C] images by up to 1/16 of their size, and adds noise."""
  key_shift, key_noise = jax.random.split(key)
  reach = max(1, images.shape[1] // 16)
  sides = ((0, 0), (reach, reach), (reach, reach), (0, 0))
  padded = jnp.pad(images, sides, mode="edge")
  offsets = jax.random.randint(
    key_shift, (images.shape[0], 2), 0, 2 * reach + 1
  )

  def crop(image, offset):
    start = (offset[0], offset[1], 0)
    return jax.lax.dynamic_slice(image, start, images.shape[1:])

  shifted = jax.vmap(crop)(padded, offsets)
  return shifted + noise * jax.random.normal(key_noise, shifted.shape)


def fingerprint(
  images: np.ndarray, labels: np.ndarray, settings: Settings
) -> str:
  """Returns a hex digest of everything that determines a classifier."""
  head = {
    "format": _FORMAT,
    "shape": list(images.shape),
    **dataclasses.asdict(settings),
  }
  digest = hashlib.sha256(json.dumps(head, sort_keys=True).encode())
  digest.update(np.ascontiguousarray(images).tobytes())
  digest.update(np.ascontiguousarray(labels, dtype=np.int64).tobytes())
  return digest.hexdigest()


def _to_arrays(classifier: Classifier, digest: str) -> Arrays:
  """Returns the content of a cache file."""
  flat = traverse_util.flatten_dict(classifier.params, sep="/")
  return {
    "fingerprint": np.asarray(digest),
    "num_classes": np.asarray(classifier.num_classes),
    "image_shape": np.asarray(classifier.image_shape),
    "accuracy": np.asarray(classifier.accuracy),
    "scale": np.asarray(classifier.scale),
    **{_PARAMS + name: value for name, value in flat.items()},
  }


def _from_arrays(arrays: Arrays, digest: str, settings: Settings) -> Classifier:
  """Makes a classifier of a cache file's content.

  Raises:
    ValueError, KeyError: it is damaged, or of another classifier.
  """
  if str(arrays["fingerprint"]) != digest:
    raise ValueError("it belongs to other data or settings")
  height, width, channels = arrays["image_shape"].tolist()
  flat = {
    name.removeprefix(_PARAMS): array
    for name, array in arrays.items()
    if name.startswith(_PARAMS)
  }
  classifier = Classifier(
    params=traverse_util.unflatten_dict(flat, sep="/"),
    num_classes=int(arrays["num_classes"]),
    image_shape=(height, width, channels),
    settings=settings,
    accuracy=float(arrays["accuracy"]),
    scale=float(arrays["scale"]),
  )
  # Shapes and types that the network has, without computing anything.
  image = jnp.zeros((1, height, width, channels))
  init = classifier.network.init
  expected = jax.eval_shape(init, jax.random.key(0), image)["params"]
  shape = lambda leaf: (leaf.shape, leaf.dtype)
  if jax.tree.map(shape, classifier.params) != jax.tree.map(shape, expected):
    raise ValueError("its parameters do not fit the network")
  return classifier
