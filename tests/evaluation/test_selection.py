"""Which candidate is chosen, by closed-form Gaussians of known best."""

import dataclasses
import types

import numpy as np
import pytest

from scm_jax import networks
from scm_jax.codec import PixelCodec
from scm_jax.errors import ConfigError
from scm_jax.evaluation import selection
from scm_jax.evaluation.reference import Reference
from scm_jax.evaluation.request import CandidateGrid, Protocol
from scm_jax.metrics import frechet, kernel
from scm_jax.metrics.metric import Options
from scm_jax.sampler import Sampler

DIM = 64
# The ratios of samples to features that Inception's 2,048 have at 5,000 and at
# 50,000 images.
FEW, MANY = DIM * 5_000 // 2_048, DIM * 50_000 // 2_048
SPREAD = np.sqrt(1 / np.arange(1, DIM + 1))  # of the truth's features
SHRUNK = (0.0, 0.02, 0.04, 0.08)  # candidates: too little deviation by this
TRUTH = frechet.Moments(None, np.zeros(DIM), np.diag(SPREAD**2))


def _drawn(seed: int, num: int) -> np.ndarray:
  return np.random.default_rng(seed).normal(size=(num, DIM)) * SPREAD


REAL = _drawn(99, 1500)


def _fd(features: np.ndarray) -> float:
  return frechet.frechet_distance(frechet.feature_stats(features), TRUTH)


def _kid(features: np.ndarray) -> float:
  whole = Options(subset_size=10_000, subsets=1)
  return kernel.kernel_distance(features, REAL, whole)[0]


def _chosen(by: str, distance, num: int, seed: int) -> float:
  """By how much the chosen candidate is shrunk; all draw the same noise."""
  noise = _drawn(seed, num)

  def candidate(share):
    return types.SimpleNamespace(share=share, settings=lambda: {"share": share})

  best, table = selection.choose(
    [candidate(share) for share in SHRUNK],
    lambda candidate: distance(noise * (1 - candidate.share)),
    by,
  )
  assert [row["share"] for row in table] == list(SHRUNK)
  assert min(table, key=lambda row: row[by])["share"] == best.share
  return best.share


@pytest.mark.parametrize("seed", range(3))
def test_a_frechet_distance_of_few_samples_chooses_too_little_variety(seed):
  """At as many as published scores have, or by KID, the truth is chosen."""
  assert _chosen("fd", _fd, FEW, seed) >= 0.02
  assert _chosen("fd", _fd, MANY, seed) == 0.0
  assert _chosen("kid", _kid, FEW, seed) == 0.0


def test_the_better_direction_is_the_scores_own():
  make = lambda name: types.SimpleNamespace(settings=lambda: {"name": name})
  candidates = [make("low"), make("high")]
  score = lambda candidate: float(candidate is candidates[1])
  for by, best in (("fd", 0), ("kid", 0), ("precision", 1), ("coverage", 1)):
    chosen, _ = selection.choose(candidates, score, by)
    assert chosen is candidates[best]


def test_kid_needs_single_features_of_the_reference():
  """Which EDM2's files do not have; this is checked before drawing."""
  kid, several = Protocol(select_by="kid"), (1.0, 1.4)

  def check(protocol, scales, **statistics):
    reference = Reference({"inception": statistics}, {"dataset": "img512.pkl"})
    scorer = types.SimpleNamespace(
      reference=reference, main_extractor="inception", protocol=protocol
    )
    grid = CandidateGrid((), guidance=scales)
    selection.check_score(grid, scorer)

  with pytest.raises(ConfigError, match="img512.pkl has .* --select-by=fd"):
    check(kid, several, moments=TRUTH)
  check(kid, (1.4,), moments=TRUTH)  # nothing to select
  check(Protocol(), several, moments=TRUTH)
  check(kid, several, moments=TRUTH, features=REAL)


def test_one_candidate_is_not_scored():
  def score(candidate):
    raise AssertionError(candidate)

  assert selection.choose(["only"], score, "fd") == ("only", [])


def test_scales_and_times_of_steps_count_where_there_are_so_many():
  """A student of two and of three steps, and a teacher."""
  grid = CandidateGrid(
    ("student", "teacher"),
    steps=(1, 2, 3),
    teacher_steps=(2,),
    guidance=(1.2, (1.3, 1.0)),
    t_mid=(0.8, 1.1),
    times=((0.9,), (1.2, 0.4), (1.3, 0.5)),
  )
  codec = PixelCodec(0.0, 0.5, 0.5)
  config = networks.UNetConfig(
    resolution=4, in_channels=1, num_classes=3, channel_mult=(1,)
  )
  takes = dataclasses.replace(config, guidance=True)
  models = {
    "student": Sampler(networks.build(takes), {}, codec),
    "teacher": Sampler(networks.build(config), {}, codec, "diffusion"),
  }
  load = lambda path, width: (models[path], {})
  found = [
    [(x.steps, x.guidance, x.model.t_mid, x.model.times) for x in group]
    for group in selection.groups(grid, load)
  ]
  assert found == [
    [(1, 1.2, 1.1, ())],
    [(2, 1.2, 1.1, (0.9,)), (2, (1.3, 1.0), 1.1, (0.9,))],
    [(3, 1.2, 1.1, (1.2, 0.4)), (3, 1.2, 1.1, (1.3, 0.5))],
    [(2, 1.2, 1.1, ())],
  ]


def test_second_times_take_the_place_of_equal_steps():
  grid = CandidateGrid(("student",), steps=(1, 2), t_mid=(0.8, 1.1))
  config = networks.UNetConfig(resolution=4, in_channels=1, channel_mult=(1,))
  codec = PixelCodec(0.0, 0.5, 0.5)
  student = Sampler(networks.build(config), {}, codec, t_mid=0.0)
  found = [
    [candidate.model.t_mid for candidate in group]
    for group in selection.groups(grid, lambda path, width: (student, {}))
  ]
  assert found == [[0.0], [0.8, 1.1]]


@pytest.mark.parametrize(
  "fields", [{"guidance": (1.0, (1.3, 1.1, 1.0))}, {"times": ((1.1, 0.5),)}]
)
def test_scales_and_times_of_steps_that_nobody_takes(fields):
  selection.check_steps(CandidateGrid((), steps=(1, 3), **fields))
  with pytest.raises(ConfigError, match="is for 3 steps, but --steps is 1,2"):
    selection.check_steps(CandidateGrid((), **fields))
