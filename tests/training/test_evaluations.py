"""Budgets in evaluations of networks: what a step of an objective takes."""

import dataclasses

import jax
import pytest

from scm_jax import objectives
from scm_jax.objectives import spec
from scm_jax.training import evaluations, resolve


@pytest.fixture
def per_sample(make_config):
  """`per_sample(run, **options)`: evaluations for a sample of a step."""

  def count(run, **options):
    config = make_config(run).unlock()
    config.objective.update({"guidance": "none"} | options)
    return evaluations.per_sample(resolve.resolve(config))

  return count


@pytest.mark.parametrize(
  ("run", "options", "expected"),
  [
    ("teacher", {}, 3),  # forward 1, backward 2
    ("sct", {}, 4),  # and the derivative
    ("scd", {}, 5),  # and the teacher,
    ("scd", {"guidance": "fixed"}, 6),  # twice with guidance
    ("scd", {"tangent_dtype": "float32"}, 6),  # the derivative has its own pass
    ("sct", {"derivative": "finite_difference"}, 5),
    ("ect", {}, 4),  # a second point in place of a derivative
    ("tcm", {}, 5),  # and the first stage's network there
    ("imf", {}, 5),  # the network's own velocity,
    ("imf", {"guidance": "sampled"}, 6),  # without a label too
    ("meanflow", {"guidance": "fixed"}, 6),
    # A student's sample (3), teacher and critic on it, the critic's loss (3).
    ("scd_vsd", {}, 5 + 8),
    ("scd_vsd", {"rollout": 3}, 5 + 8 + 2),
    # Three steps to each state, in which the teacher is asked anyway.
    ("scd", {"state_steps": 3}, 5 + 3),
    ("ayf", {"state_steps": 3, "guidance": "fixed"}, 6 + 2 * 3),
    # A trajectory: the teacher and the student, each at all states.
    ("cmt", {"path_steps": 8}, 8 + 3 * 8),
    ("cmt", {"guidance": "fixed"}, 16 * 2 + 3 * 16),
  ],
)
def test_passes_are_counted(per_sample, run, options, expected):
  assert per_sample(run, **options) == expected


@pytest.mark.parametrize(
  ("run", "options", "expected"),
  [
    ("teacher", {}, 1),
    ("scd", {"guidance": "fixed"}, 1),  # neither derivative nor teacher
    ("scd", {"tangent_dtype": "float32"}, 1),
    ("cmt", {"path_steps": 8}, 8),
    ("scd_vsd", {"rollout": 3}, 3),  # the last step of the rollout, the critic
  ],
)
def test_evaluations_with_a_backward_pass(make_config, run, options, expected):
  config = make_config(run).unlock()
  config.objective.update({"guidance": "none"} | options)
  assert evaluations.backward(resolve.resolve(config)) == expected


@pytest.mark.parametrize(
  ("run", "options", "apart"),
  [
    ("teacher", {}, 0),
    ("sct", {}, 2),  # the value that the tangent needs, and the derivative
    ("scd", {}, 3),
    ("scd", {"guidance": "fixed"}, 4),
    ("scd", {"state_steps": 3}, 6),
    ("imf", {"guidance": "sampled"}, 4),
    ("meanflow", {"guidance": "fixed"}, 4),
    ("scd_vsd", {"guidance": "fixed"}, 6),  # the teacher's score, too
  ],
)
def test_evaluations_in_the_type_of_the_tangent(
  make_config, run, options, apart
):
  config = make_config(run).unlock()
  config.objective.update({"guidance": "none"} | options)
  config.network.dtype = "bfloat16"
  config.objective.label_dropout = 0.1
  assert evaluations.apart(resolve.resolve(config)) == 0
  if run != "teacher":
    config.objective.tangent_dtype = "float32"
    assert evaluations.apart(resolve.resolve(config)) == apart


def test_a_guide_needs_no_labels(make_config):
  config = make_config("scd", "--config.guide=weak").unlock()
  config.data.num_classes = 0
  config.objective.guidance = "fixed"
  assert evaluations.per_sample(resolve.resolve(config)) == 6


def test_an_objective_of_ones_own_is_counted_with_its_loops(
  per_sample, monkeypatch
):
  """A diffusion model that looks at its sample seven times before."""
  plain = objectives.OBJECTIVES["teacher"]

  def loss(student, params, point, velocity, options, step):
    look = lambda x, _: (spec.evaluate(student.F, params, x, point.t, point), 0)
    seen, _ = jax.lax.scan(look, point.x0, length=7)
    fixed = point._replace(z=point.z + jax.lax.stop_gradient(seen))
    return plain.loss(student, params, fixed, velocity, options, step)

  own = dataclasses.replace(plain, loss=loss)
  monkeypatch.setitem(objectives.OBJECTIVES, "teacher", own)
  evaluations.per_sample.cache_clear()
  try:
    assert per_sample("teacher") == 3 + 7
  finally:
    evaluations.per_sample.cache_clear()


def test_the_total_is_of_all_samples(make_config):
  run = resolve.resolve(make_config("sct"))
  assert evaluations.total(run, 12) == 4 * run.batch_size * 12
