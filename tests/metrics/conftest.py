"""The digits, one classifier trained on them, and features of few images."""

import jax
import numpy as np
import pytest
from sklearn import datasets

from scm_jax.metrics import classifier


@pytest.fixture(scope="session")
def digits() -> tuple[np.ndarray, np.ndarray]:
  """The UCI digits: uint8 [1797, 8, 8, 1] and their labels."""
  data = datasets.load_digits()
  images = np.round(data.images * (255 / 16)).astype(np.uint8)
  return images[..., None], data.target


@pytest.fixture(scope="session")
def trained(digits) -> classifier.Classifier:
  """A classifier with the default settings."""
  return classifier.train(*digits)


@pytest.fixture(scope="session")
def hardly_trained(digits) -> classifier.Classifier:
  """The same after a few steps, where its features do not matter."""
  few = classifier.Settings(steps=12)
  return classifier.train(digits[0][:200], digits[1][:200], few)


@pytest.fixture(scope="session")
def extract():
  """`extract(extractor, images)`: their features [N, dim], in one batch."""

  def compute(extractor, images: np.ndarray) -> np.ndarray:
    outputs = jax.jit(extractor.apply)(extractor.params, images)
    return np.asarray(outputs["features"])

  return compute
