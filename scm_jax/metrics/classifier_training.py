"""Trains the feature classifier: AdamW on shifted and noisy images."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from scm_jax.errors import UserError
from scm_jax.image_grid import check_images
from scm_jax.metrics.classifier import (
  Classifier,
  FeatureNet,
  Settings,
  apply_in_batches,
  make_network,
  normalize,
)


def train(
  images: np.ndarray,
  labels: np.ndarray,
  settings: Settings | None = None,
) -> Classifier:
  """Trains a classifier on a random split of the images.

  Args:
    images: [N, H, W, C] uint8.
    labels: [N] integers from 0; the largest sets the number of classes.
    settings: how.

  Returns:
    The classifier, with its accuracy on the held-out images.

  Raises:
    UserError: images or labels cannot be learnt from.
  """
  images, labels = np.asarray(images), np.asarray(labels)
  settings = settings or Settings()
  check_labelled(images, labels)
  rng = np.random.default_rng(settings.seed)
  order = rng.permutation(len(images))
  held = max(1, round(settings.held_out * len(images)))
  held_out, training = order[:held], order[held:]
  num_classes = int(labels.max()) + 1
  network = make_network(settings, num_classes)
  params = _fit(network, images[training], labels[training], settings, rng)
  features, _ = apply_in_batches(network, params, images[training])
  _, logits = apply_in_batches(network, params, images[held_out])
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
  """Raises UserError unless the labelled images can train a classifier."""
  check_images(images, "the classifier's images")
  if labels.shape != images.shape[:1] or labels.dtype.kind not in "iu":
    raise UserError(
      f"a classifier needs one integer label per image: {len(images)} images, "
      f"labels {labels.dtype} {list(labels.shape)}"
    )
  if labels.min() < 0 or labels.min() == labels.max():
    raise UserError(
      "a classifier needs labels from 0 and at least two classes, and they "
      f"range from {labels.min()} to {labels.max()}"
    )


def _fit(
  network: FeatureNet,
  images: np.ndarray,
  labels: np.ndarray,
  settings: Settings,
  rng: np.random.Generator,
) -> Any:
  """Parameters after `settings.steps` steps of AdamW on augmented images."""
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


def _batches(
  count: int, settings: Settings, rng: np.random.Generator
) -> np.ndarray:
  """[steps, batch_size] indices: shuffled epochs, one after the other."""
  needed = settings.steps * settings.batch_size
  epochs = [rng.permutation(count) for _ in range(-(-needed // count))]
  return np.concatenate(epochs)[:needed].reshape(settings.steps, -1)


def _augment(key: jax.Array, images: jax.Array, noise: float) -> jax.Array:
  """Shifts [B, H, W, C] images by up to 1/16 of their size; adds noise."""
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
