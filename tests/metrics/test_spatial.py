"""sFID: moments of spatial features beside those of the main ones."""

import numpy as np
import pytest

from scm_jax import errors
from scm_jax.metrics import frechet, reference_files, scores, spatial
from scm_jax.metrics.accumulator import (
  Accumulator,
  from_arrays,
  to_arrays,
)
from scm_jax.metrics.metric import Options

DIM = 6


def _statistics(seed, count=200, shift=0.0):
  """Of features that say nothing, and spatial ones that do."""
  rng = np.random.default_rng(seed)
  outputs = {
    "features": rng.normal(size=(count, 3)),
    "spatial": rng.normal(size=(count, DIM)) + shift,
  }
  accumulator = Accumulator(count)
  for start in range(0, count, 64):
    part = {name: x[start : start + 64] for name, x in outputs.items()}
    accumulator.add({"inception": part}, len(part["features"]))
  return accumulator.result()["inception"], outputs["spatial"]


def test_the_distance_is_that_of_spatial_features_alone():
  (one, mine), (other, theirs) = _statistics(0), _statistics(1, shift=1.0)
  found = scores.score({"inception": one}, {"inception": other})
  expected = frechet.frechet_distance(
    *map(frechet.feature_stats, (mine, theirs))
  )
  assert found["sfid"]["inception"] == pytest.approx(expected, rel=1e-9)
  assert expected > 5 > 0.2 > found["fd"]["inception"]
  # It is stored beside the main moments, and read again.
  again = from_arrays(to_arrays(one))
  np.testing.assert_array_equal(again["spatial"].mean, one["spatial"].mean)
  assert len(again["moments"].mean) == 3


def test_few_samples_have_a_main_distance_alone():
  (few, _), (real, _) = _statistics(0, DIM), _statistics(1)
  sets = {"inception": few}, {"inception": real}
  assert scores.score(*sets)["sfid"] == {}
  assert "inception" in scores.score(*sets, Options(allow_few=True))["sfid"]


def test_adms_file_has_its_moments(tmp_path):
  (mine, features), (_, theirs) = _statistics(0), _statistics(1)
  moments = {"mu": np.zeros(3), "sigma": np.eye(3)}
  moments |= {"mu_s": theirs.mean(axis=0), "sigma_s": np.cov(theirs.T)}
  path = tmp_path / "VIRTUAL_imagenet64_labeled.npz"
  np.savez(path, **moments)
  read = reference_files.read(path)
  reference = {"moments": read.moments["inception"], "spatial": read.spatial}
  found = scores.score({"inception": mine}, {"inception": reference})
  expected = frechet.frechet_distance(
    frechet.feature_stats(features), frechet.feature_stats(theirs)
  )
  assert found["sfid"]["inception"] == pytest.approx(expected, rel=1e-9)
  other = reference | {"spatial": frechet.Moments(None, np.zeros(2), np.eye(2))}
  with pytest.raises(errors.UserError, match="2 spatial features"):
    scores.score({"inception": mine}, {"inception": other})
  assert spatial.METRIC.score({}, reference, Options()) == ({}, "")
