"""A small classifier, trained here on the dataset, as a feature extractor.

Public feature networks say little about 8x8 digits, so small datasets get their
own. Shifts and noise in training keep its features smooth functions of the
image; they are few so that a few hundred images give a stable covariance.
Scores compare only if they use the same features, so it is trained once, and
cached under a fingerprint of everything that determines it.
"""

import dataclasses
import functools
import hashlib
import json
import logging
import os
import pathlib
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from scm_jax import compilation
from scm_jax.errors import UserError
from scm_jax.image_grid import check_images
from scm_jax.metrics import array_file, multihost
from scm_jax.metrics.extractor import Extractor, Source
from scm_jax.metrics.metric import Arrays
from scm_jax.metrics.streaming import pad_batch

_LOG = logging.getLogger(__name__)
_FORMAT = 1  # version of network and file; part of the fingerprint
_BATCH = 256  # images that the trained network is applied to at once


@dataclasses.dataclass(frozen=True)
class Settings:
  """Everything that determines a classifier, apart from its data."""

  features: int = 32  # width of the feature layer
  channels: int = 16  # of the first convolution; they double as sizes halve
  steps: int = 2000  # of AdamW
  batch_size: int = 64
  learning_rate: float = 3e-3  # the peak of a cosine schedule
  weight_decay: float = 1e-2
  noise: float = 0.2  # its standard deviation, images being in [-1, 1]
  held_out: float = 0.2  # share of the images that measure the accuracy
  seed: int = 0  # of the split, the initial weights and the augmentation

  def network(self, num_classes: int) -> "Network":
    """Returns the network that has these settings."""
    return FeatureNet(num_classes, self)


_DEFAULT = Settings()


class Network(nn.Module):
  """A network that maps images to features [B, F] and logits [B, K].

  Images are [B, H, W, C], in [-1, 1].
  """

  num_classes: int
  settings: Any


class FeatureNet(Network):
  """Convolutions down to 4x4, then features, then class logits."""

  @nn.compact
  def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Maps [B, H, W, C] in [-1, 1] to features [B, F] and logits [B, K]."""
    channels = self.settings.channels
    if x.shape[1] <= 8:  # tiny images: look once before throwing pixels away
      x = nn.silu(nn.Conv(channels, (3, 3), name="conv_full")(x))
    depth = 0
    while max(x.shape[1:3]) > 4:
      conv = nn.Conv(channels, (3, 3), (2, 2), name=f"conv_{depth}")
      x = nn.silu(conv(x))
      channels, depth = 2 * channels, depth + 1
    x = x.reshape(x.shape[0], -1)
    # The features are linear outputs: smooth, and not clipped at zero.
    features = nn.Dense(self.settings.features, name="features")(x)
    logits = nn.Dense(self.num_classes, name="logits")(nn.silu(features))
    return features, logits


@dataclasses.dataclass(frozen=True)
class Classifier:
  """A trained classifier.

  The scale is a factor that gives the features of the training images a
  variance of 1 on average, so that distances do not depend on the weights'.
  """

  network: Network
  params: Any
  image_shape: tuple[int, int, int]  # (H, W, C) of the images it takes
  accuracy: float  # share of the held-out images that are classified correctly
  scale: float


def extractor(
  source: Source, settings: Settings = _DEFAULT, name: str = "classifier"
) -> Extractor:
  """Returns a classifier of a dataset, cached or trained, as an extractor.

  All processes must call it together: classifiers trained by two of them would
  differ by rounding, so process 0 trains one for all.
  """
  make = lambda: load_or_train(*source.labelled(), source.cache, settings)
  return classifier_extractor(multihost.from_process_zero(make), name)


def classifier_extractor(
  classifier: Classifier, name: str = "classifier"
) -> Extractor:
  """Returns the features, logits and labels of a trained classifier."""
  network = classifier.network

  def apply(params: Any, images: jax.Array) -> dict[str, jax.Array]:
    if images.shape[1:] != classifier.image_shape:
      raise UserError(
        f"the {name} takes images of {list(classifier.image_shape)}, not "
        f"{list(images.shape[1:])}"
      )
    features, logits = _forward(network, params["network"], images)
    label = jnp.argmax(logits, axis=-1).astype(jnp.int32)
    features = features * params["scale"]
    return {"features": features, "logits": logits, "label": label}

  return Extractor(
    name,
    network.settings.features,
    {"network": classifier.params, "scale": np.float32(classifier.scale)},
    apply,
    ("features", "logits", "label"),
    facts={f"{name}_accuracy": classifier.accuracy},
  )


def load_or_train(
  images: np.ndarray,
  labels: np.ndarray,
  cache: str | os.PathLike[str],
  settings: Settings = _DEFAULT,
) -> Classifier:
  """Returns what `train` returns, from the cache if it is there.

  A cache file that is damaged or belongs to other data is replaced, after a
  warning. If the cache cannot be written, a warning is all that happens.
  """
  digest = _fingerprint(images, labels, settings)
  path = pathlib.Path(cache) / f"classifier_{digest[:16]}.npz"
  parse = functools.partial(_from_arrays, digest=digest, settings=settings)
  if cached := array_file.read_cached(path, parse):
    return cached
  classifier = train(images, labels, settings)
  content: dict[str, Any] = {
    "fingerprint": digest,
    "num_classes": classifier.network.num_classes,
    "image_shape": classifier.image_shape,
    "accuracy": classifier.accuracy,
    "scale": classifier.scale,
    "params": classifier.params,
  }
  try:
    array_file.write_arrays(path, traverse_util.flatten_dict(content, sep="/"))
  except UserError as error:
    _LOG.warning("the classifier is not cached: %s", error)
  return classifier


def train(
  images: np.ndarray, labels: np.ndarray, settings: Settings = _DEFAULT
) -> Classifier:
  """Trains a classifier on a random split of images, [N, H, W, C] uint8.

  Labels are [N] integers from 0; the largest sets the number of classes.

  Raises:
    UserError: a classifier cannot be trained on these images and labels.
  """
  _check(images, labels)
  rng = np.random.default_rng(settings.seed)
  held = max(1, round(settings.held_out * len(images)))
  held_out, training = np.split(rng.permutation(len(images)), [held])
  network = settings.network(int(labels.max()) + 1)
  params = _fit(network, images[training], labels[training], rng)
  features, _ = _apply_in_batches(network, params, images[training])
  _, logits = _apply_in_batches(network, params, images[held_out])
  spread = float(features.astype(np.float64).var(axis=0).mean())
  accuracy = float(np.mean(logits.argmax(axis=-1) == labels[held_out]))
  scale = 1.0 / max(spread, 1e-12) ** 0.5
  return Classifier(network, params, images.shape[1:], accuracy, scale)


def _check(images: np.ndarray, labels: np.ndarray) -> None:
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
      f"labels range from {labels.min()} to {labels.max()}; choose other "
      "features, such as --features=pixels,random"
    )


def _fit(
  network: Network,
  images: np.ndarray,
  labels: np.ndarray,
  rng: np.random.Generator,
) -> Any:
  """Returns the parameters after all steps of AdamW on augmented images."""
  import optax  # only training needs it

  settings = network.settings
  schedule = optax.cosine_decay_schedule(settings.learning_rate, settings.steps)
  optimizer = optax.adamw(schedule, weight_decay=settings.weight_decay)

  def loss_fn(params, batch, targets):
    logits = network.apply({"params": params}, batch)[1]
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, targets)
    return loss.mean()

  platform = jax.default_backend()
  options = compilation.options(platform)
  quickly = compilation.options(platform, once=True)

  @functools.partial(jax.jit, compiler_options=options)
  def step(params, opt_state, batch, targets, key):
    batch = _augment(key, _normalize(batch), settings.noise)
    gradient = jax.grad(loss_fn)(params, batch, targets)
    updates, opt_state = optimizer.update(gradient, opt_state, params)
    return optax.apply_updates(params, updates), opt_state

  key = jax.random.key(settings.seed)
  init = jax.jit(network.init, compiler_options=quickly)
  params = init(key, _normalize(images[:1]))["params"]
  opt_state = optimizer.init(params)
  # One shuffled epoch after another.
  needed = settings.steps * settings.batch_size
  epochs = [rng.permutation(len(images)) for _ in range(0, needed, len(images))]
  order = np.concatenate(epochs)[:needed].reshape(settings.steps, -1)
  for index, chosen in enumerate(order, start=1):
    targets = labels[chosen].astype(np.int32)
    noise = jax.random.fold_in(key, index)
    params, opt_state = step(params, opt_state, images[chosen], targets, noise)
  return jax.device_get(params)


def _augment(key: jax.Array, images: jax.Array, noise: float) -> jax.Array:
  """Shifts [B, H, W, C] images by up to 1/16 of their size, and adds noise."""
  key_shift, key_noise = jax.random.split(key)
  reach = max(1, images.shape[1] // 16)
  sides = ((0, 0), (reach, reach), (reach, reach), (0, 0))
  padded = jnp.pad(images, sides, mode="edge")
  offsets = jax.random.randint(key_shift, (len(images), 2), 0, 2 * reach + 1)

  def crop(image, offset):
    start = (offset[0], offset[1], 0)
    return jax.lax.dynamic_slice(image, start, images.shape[1:])

  shifted = jax.vmap(crop)(padded, offsets)
  return shifted + noise * jax.random.normal(key_noise, shifted.shape)


def _apply_in_batches(
  network: Network, params: Any, images: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """Returns the features and logits of all images, by one compiled program."""
  forward = compilation.Jitted(_forward, ("network",))
  outputs = []
  for start in range(0, len(images), _BATCH):
    part = images[start : start + _BATCH]
    found = forward(network, params, pad_batch(part, _BATCH))
    outputs.append([np.asarray(x)[: len(part)] for x in found])
  features, logits = zip(*outputs, strict=True)
  return np.concatenate(features), np.concatenate(logits)


def _forward(
  network: Network, params: Any, images: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Returns features [B, F] and logits [B, K] of uint8 images."""
  return network.apply({"params": params}, _normalize(images))


def _normalize(images: np.ndarray | jax.Array) -> jax.Array:
  """Maps uint8 to float32 in [-1, 1]."""
  return jnp.asarray(images, jnp.float32) / 127.5 - 1.0


def _fingerprint(
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


def _from_arrays(arrays: Arrays, digest: str, settings: Settings) -> Classifier:
  """Makes a classifier of a cache file's content, or raises an error."""
  content: Any = traverse_util.unflatten_dict(arrays, sep="/")
  if str(content["fingerprint"]) != digest:
    raise ValueError("it belongs to other data or settings")
  shape = tuple(content["image_shape"].tolist())
  network = settings.network(int(content["num_classes"]))
  # Shapes and types that the network has, without computing anything.
  image = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
  expected = jax.eval_shape(network.init, jax.random.key(0), image)["params"]
  kind = lambda leaf: (leaf.shape, leaf.dtype)
  if jax.tree.map(kind, content["params"]) != jax.tree.map(kind, expected):
    raise ValueError("its parameters do not fit the network")
  numbers = (float(content[name]) for name in ("accuracy", "scale"))
  return Classifier(network, content["params"], shape, *numbers)
