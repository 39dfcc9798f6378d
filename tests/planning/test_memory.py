"""What a step needs, against closed forms."""

import copy

import jax
import pytest

from scm_jax.planning import memory
from scm_jax.training import resolve, workdir


@pytest.fixture
def changed(config):
  """Returns `changed(**fields)`: the config, run in other ways."""

  def make(remat="none", **fields):
    other = copy.deepcopy(config)
    other.network.remat = remat
    other.update(fields)
    return other

  return make


@pytest.fixture
def step(config):
  return memory.Step(resolve.resolve(config))


@pytest.fixture
def params(config):
  """Returns the network's parameters as shapes."""
  return workdir.param_shapes(config)


def count(params):
  return sum(leaf.size for leaf in jax.tree.leaves(params))


def test_parts_that_are_arithmetic(step, changed, params):
  """Float32 state and gradients of N parameters, on one device."""
  config, n = changed(), count(params)
  need = step.need(resolve.resolve(config), 1, 1)
  trees = 1 + 2 + len(config.ema) + 1  # weights, moments, averages, teacher
  images = config.batch_size * (config.data.size**2 + 4)  # and labels
  assert need.resident == pytest.approx(4 * n * trees + images, rel=0.01)
  # Gradients take the place of what the passes held, if there is enough.
  assert need.total == need.resident + max(
    4 * n, need.weights + need.activations
  )


def test_a_trajectory_holds_what_its_states_do(changed):
  """Mid-training computes all of them in one pass."""
  runs = [resolve.resolve(changed(run=run)) for run in ("scd", "cmt")]
  one, path = (memory.Step(run).need(run, 1, 1).activations for run in runs)
  states = runs[1].spec.path_states(runs[1].objective)
  assert states > 1 and path == pytest.approx(states * one, rel=1e-6)


def test_ways_to_need_less(step, changed, params):
  whole, n = step.need(resolve.resolve(changed()), 1, 1), count(params)
  halves = step.need(resolve.resolve(changed(microbatches=2)), 1, 1)
  assert halves.activations == pytest.approx(whole.activations / 2, abs=1)
  assert halves.gradients - whole.gradients >= 4 * n  # of the first half
  shards = step.need(resolve.resolve(changed()), 1, 4)
  assert shards.resident < whole.resident / 2
  assert shards.weights == whole.weights
  assert shards.activations == pytest.approx(whole.activations / 4, abs=1)
  narrow = step.need(resolve.resolve(changed(teacher_dtype="bfloat16")), 1, 1)
  assert whole.resident - narrow.resident == pytest.approx(2 * n, rel=0.02)
  away = step.need(changed(offload=("moments",)), 1, 1)
  assert whole.resident - away.resident == pytest.approx(8 * n, rel=0.01)


def test_recomputed_blocks_keep_their_inputs(changed):
  """One array for each block and for the last layer, and little else."""
  config = changed("full")
  config.network.channels = 64
  params = workdir.param_shapes(config)
  # An encoder block, the two in the middle, and two decoder blocks, whose
  # inputs are twice as wide, as they take in the encoder's; the last layer.
  widths = 1 + 1 + 1 + 2 + 2 + 1
  array = 4 * config.data.size**2 * config.network.channels
  assert memory.residuals(resolve.resolve(config), params) == pytest.approx(
    widths * array, rel=0.05
  )
  kept = []
  for policy in ("none", "dots", "full"):
    config.network.remat = policy
    kept.append(memory.residuals(resolve.resolve(config), params))
  assert kept == sorted(kept, reverse=True)
