"""The feature classifier: accuracy, determinism, features."""

import dataclasses

import jax
import numpy as np
import pytest

from scm_jax import errors
from scm_jax.metrics import classifier
from scm_jax.metrics.classifier import classifier_extractor

_SHORT = classifier.Settings(steps=12, channels=4, features=6)


@pytest.mark.slow
def test_reads_digits_it_has_not_seen(trained):
  assert trained.accuracy >= 0.97


def test_accuracy_is_that_of_the_held_out_images(digits, hardly_trained):
  trained = hardly_trained
  images, labels = digits[0][:200], digits[1][:200]
  order = np.random.default_rng(trained.network.settings.seed).permutation(
    len(images)
  )
  held_out = order[: round(0.2 * len(images))]
  extractor = classifier_extractor(trained)
  outputs = extractor.apply(extractor.params, images[held_out])
  right = np.argmax(outputs["logits"], axis=1) == labels[held_out]
  assert trained.accuracy == pytest.approx(right.mean())


@pytest.mark.slow
def test_features_are_scaled_and_smooth(digits, trained, extract):
  images, _ = digits
  extractor = classifier_extractor(trained)
  features = extract(extractor, images)
  assert features.shape == (1797, 32)
  assert features.dtype == np.float32
  assert features.var(axis=0).mean() == pytest.approx(1.0, abs=0.1)
  # Noise that a person overlooks moves features less than images differ.
  noise = np.random.default_rng(0).normal(0, 8, images.shape)
  noisy = np.clip(images + noise, 0, 255).astype(np.uint8)
  moved = np.linalg.norm(extract(extractor, noisy) - features, axis=1)
  apart = np.linalg.norm(features[1:] - features[:-1], axis=1)
  assert np.median(moved) < 0.15 * np.median(apart)


def test_features_do_not_depend_on_the_batch(digits, hardly_trained, extract):
  images, _ = digits
  extractor = classifier_extractor(hardly_trained)
  whole = extract(extractor, images[:300])
  parts = [extract(extractor, images[a:b]) for a, b in ((0, 7), (7, 300))]
  np.testing.assert_allclose(np.concatenate(parts), whole, atol=1e-5)


def test_training_follows_the_seed(digits):
  images, labels = digits[0][:200], digits[1][:200]
  first = classifier.train(images, labels, _SHORT)
  again = classifier.train(images, labels, _SHORT)
  jax.tree.map(np.testing.assert_array_equal, first.params, again.params)
  assert (first.accuracy, first.scale) == (again.accuracy, again.scale)
  other = classifier.train(images, labels, dataclasses.replace(_SHORT, seed=1))
  kernels = [c.params["features"]["kernel"] for c in (first, other)]
  assert np.abs(kernels[0] - kernels[1]).max() > 1e-3


@pytest.mark.parametrize("shape", [(20, 32, 32, 3), (20, 12, 16, 1)])
def test_other_sizes_and_channels(shape, extract):
  images = np.random.default_rng(0).integers(0, 255, shape, np.uint8)
  trained = classifier.train(images, np.arange(20) % 3, _SHORT)
  assert trained.network.num_classes == 3
  assert extract(classifier_extractor(trained), images).shape == (20, 6)


def test_images_of_another_shape_are_an_error(hardly_trained, extract):
  extractor = classifier_extractor(hardly_trained)
  with pytest.raises(errors.UserError, match=r"takes images of \[8, 8, 1\]"):
    extract(extractor, np.zeros((2, 16, 16, 1), np.uint8))


@pytest.mark.parametrize(
  ("labels", "message"),
  [
    (np.zeros(19, int), "one integer label per image"),
    (np.zeros(20, float), "one integer label per image"),
    (np.zeros(20, int), "at least two classes"),
    (np.arange(20) - 1, "labels from 0"),
  ],
)
def test_labels_that_cannot_be_learnt(labels, message):
  images = np.zeros((20, 8, 8, 1), np.uint8)
  with pytest.raises(errors.UserError, match=message):
    classifier.train(images, labels, _SHORT)
