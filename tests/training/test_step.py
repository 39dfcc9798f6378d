"""The train step: what it keeps, what it costs, and that it is a function."""

import types

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scm_jax.defaults import get_defaults
from scm_jax.errors import ConfigError
from scm_jax.networks import magnitude
from scm_jax.objectives import OBJECTIVES
from scm_jax.training import program, resolve, sharding
from scm_jax.training.benchmarks import train_step
from scm_jax.training.step import seed_of, zero_nonfinite

STEPS = 3


def small_config(run):
  config = get_defaults()
  config.run = run
  config.batch_size = 8
  config.data.update(size=4, channels=1, num_classes=3)
  config.network.update(
    channels=8, channel_mult=(1,), num_blocks=1, attn_resolutions=()
  )
  config.network.update(channels_per_head=8, dropout=0.2)
  config.optimizer.rampup_images = 0
  config.objective.update(label_dropout=0.1, warmup_steps=10)
  config.objective.guidance = "sampled"
  return config


@pytest.fixture(scope="module")
def scd():
  """A distillation's step, a fresh state for it, and the other arguments."""
  config = resolve.resolve(small_config("scd"))
  compiled = program.make(config, sharding.make_mesh(config))
  # The output gain starts at 0; nothing else would move at first.
  start = {"denoiser": {"out_gain": jnp.ones(())}}
  state = program.first_state(config, compiled.state, start)
  rng = np.random.default_rng(0)
  batch = {
    "image": jnp.asarray(rng.integers(0, 256, (8, 4, 4, 1)), jnp.uint8),
    "label": jnp.asarray(rng.integers(0, 3, 8), jnp.int32),
  }
  # The teacher is another network: its guidance input is missing.
  teacher_params = jax.tree.map(jnp.copy, state.params)
  del teacher_params["denoiser"]["embedding"]["emb_guidance"]
  fresh = lambda: jax.tree.map(jnp.copy, state)
  yield types.SimpleNamespace(
    step=compiled.step,
    fresh=fresh,
    arguments=(teacher_params, batch, seed_of(config)),
  )
  # One trace, whatever the steps and seeds.
  assert compiled.step._cache_size() == 1


@pytest.fixture(scope="module")
def run(scd):
  """States, the first included, and metrics of a few steps."""
  states, metrics = [scd.fresh()], []
  for _ in range(STEPS):
    copy = jax.tree.map(jnp.copy, states[-1])
    state, values = scd.step(copy, *scd.arguments)
    states.append(state)
    metrics.append(values)
  return types.SimpleNamespace(states=states, metrics=metrics)


def on_sphere(params):
  """Weights and the root-mean-square of each of their filters."""
  leaves = jax.tree_util.tree_leaves_with_path(params)
  weights = [w for path, w in leaves if path[-1].key == magnitude.WEIGHT]
  assert len(weights) > 10
  for w in weights:
    rms = np.sqrt(np.mean(np.square(w), axis=tuple(range(w.ndim - 1))))
    np.testing.assert_allclose(rms, 1, rtol=1e-5)
  return weights


def test_weights_stay_on_their_spheres(run):
  before, after = (on_sphere(run.states[i].params) for i in (0, -1))
  for a, b in zip(before, after, strict=True):
    assert not np.array_equal(a, b)


def test_state_advances(run):
  assert [int(state.step) for state in run.states] == [0, 1, 2, 3]
  first, last = run.states[1], run.states[-1]
  # The first update leaves nothing of the start in the averages.
  for average in first.ema.values():
    jax.tree.map(np.testing.assert_array_equal, average, first.params)
  short = jax.tree.leaves(last.ema["0.050"])
  assert not all(map(np.array_equal, short, jax.tree.leaves(last.params)))
  assert not all(map(np.array_equal, short, jax.tree.leaves(last.ema["0.100"])))
  for metrics in run.metrics:
    assert all(np.isfinite(m).all() for m in jax.tree.leaves(metrics))
    assert metrics["nonfinite_gradients"] == 0
    assert metrics["learning_rate"] == pytest.approx(0.01)
    assert metrics["by_time"]["count"].sum() == 8
  # Times, which do not depend on the parameters, are new at every step.
  times = [m["by_time"]["count"] for m in run.metrics]
  assert len({tuple(count.tolist()) for count in times}) == STEPS


def test_the_optimiser_sees_gradients_tangent_to_the_spheres(run):
  before, after = run.states[:2]
  mu = after.opt_state[0].mu
  norms = []

  def check(path, m, w):
    if path[-1].key != magnitude.WEIGHT:
      return
    axes = tuple(range(w.ndim - 1))
    along = np.sum(m * w, axes) / np.sqrt(np.sum(w * w, axes))
    norms.append(np.linalg.norm(m))
    np.testing.assert_allclose(along, 0, atol=1e-5 * norms[-1])

  jax.tree_util.tree_map_with_path(check, mu, before.params)
  assert min(norms) > 0
  squares = sum(np.sum(np.square(m)) for m in jax.tree.leaves(mu))
  np.testing.assert_allclose(
    run.metrics[0]["gradient_norm"], np.sqrt(squares) / 0.1, rtol=1e-5
  )


def test_the_step_is_a_pure_function(scd, run):
  state = scd.fresh()
  for _ in range(STEPS):
    state, metrics = scd.step(state, *scd.arguments)
  chex.assert_trees_all_equal(state, run.states[-1])
  chex.assert_trees_all_equal(metrics, run.metrics[-1])


def test_seeds_share_a_program(scd, run):
  """The fixture counts the traces; other draws, another loss."""
  teacher, batch, seed = scd.arguments
  _, metrics = scd.step(scd.fresh(), teacher, batch, seed + np.uint32(1))
  assert metrics["loss"] != run.metrics[0]["loss"]


@pytest.mark.parametrize("seed", (0, 7, 2**31 + 5, 2**32 - 1))
def test_a_seed_means_what_jax_means_by_it(seed):
  config = small_config("scd")
  config.seed = seed
  drawn = jax.jit(jax.random.key)(seed_of(config))
  assert drawn == jax.random.key(seed)


def test_all_of_the_state_is_donated(scd):
  state = scd.fresh()
  compiled = scd.step.lower(state, *scd.arguments).compile()
  held = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
  assert compiled.memory_analysis().alias_size_in_bytes == held


def test_start_is_laid_over_a_fresh_state(scd):
  """What a start lacks is drawn; what it has is taken, weights projected."""
  state = scd.fresh()
  assert state.params["denoiser"]["out_gain"] == 1
  assert state.params["weighting"]["linear"]["bias"] == 0
  guidance = state.params["denoiser"]["embedding"]["emb_guidance"]["kernel"]
  assert guidance.shape == (8, 8) and not guidance.any()
  for average in state.ema.values():
    chex.assert_trees_all_equal(average, state.params)


def test_zero_nonfinite():
  nan, inf = jnp.nan, jnp.inf
  grads = {
    "a": jnp.array([1.0, nan, -inf]),
    "b": {"c": jnp.array([[inf], [2]])},
  }
  clean, bad = zero_nonfinite(grads)
  np.testing.assert_array_equal(clean["a"], [1, 0, 0])
  np.testing.assert_array_equal(clean["b"]["c"], [[0], [2]])
  assert bad == 3


def wide_config(run="scd"):
  """Convolutions outweigh the rest, as they do in a network of use."""
  config = small_config(run)
  config.batch_size = 32
  config.data.size = 8
  config.network.update(channels=64, dropout=0.0)
  return config


def test_flops_in_forward_passes(monkeypatch):
  """No pass is made twice: 1 forward, 2 backward; the derivative; a teacher."""
  few = {name: OBJECTIVES[name] for name in ("teacher", "sct", "scd")}
  monkeypatch.setattr(train_step, "OBJECTIVES", few)
  flops = train_step.flops_in_forwards(wide_config())
  assert 2.9 <= flops["diffusion"] <= 3.1
  assert 3.9 <= flops["sct"] <= 4.15
  assert 4.9 <= flops["scd"] <= 5.2


def test_an_option_that_others_lack_does_not_stop_the_count(monkeypatch):
  """They are counted with their own; the run's own has to be right."""
  few = {name: OBJECTIVES[name] for name in ("cmt", "sct")}
  monkeypatch.setattr(train_step, "OBJECTIVES", few)
  config = wide_config("cmt")
  config.objective.ends, config.objective.path_steps = "path", 2
  flops = train_step.flops_in_forwards(config)
  assert flops["sct"] == pytest.approx(4, abs=0.2)
  assert flops["cmt"] == pytest.approx(2 * 4, rel=0.1)
  config.objective.ends = "pair"
  with pytest.raises(ConfigError, match="choose one of"):
    train_step.flops_in_forwards(config)


@pytest.mark.slow
def test_flops_of_other_objectives():
  """A second time, another scale or another norm costs no pass."""
  flops = train_step.flops_in_forwards(wide_config())
  of_data, of_teacher = ("meanflow", "ect"), ("ms_scd", "ayf", "facm")
  for known, names in {"sct": of_data, "scd": of_teacher}.items():
    for name in names:
      assert flops[name] == pytest.approx(flops[known], abs=0.2)
  # The student and the teacher at each of 16 states; the first stage's network.
  assert flops["cmt"] == pytest.approx(16 * 4, rel=0.03)
  assert flops["tcm"] == pytest.approx(flops["ect"] + 1, abs=0.2)
  assert flops["imf"] == pytest.approx(flops["sct"] + 1, abs=0.2)
  # A student's sample (3), teacher and critic on it, and the critic's loss (3).
  assert flops["scd_vsd"] == pytest.approx(flops["scd"] + 8, abs=0.5)


@pytest.mark.slow
def test_states_of_the_teachers_path_cost_its_evaluations(monkeypatch):
  """One for each step; its velocity in the state is asked for anyway."""
  few = {name: OBJECTIVES[name] for name in ("sct", "scd", "scd_vsd")}
  monkeypatch.setattr(train_step, "OBJECTIVES", few)
  config = wide_config()
  flops = train_step.flops_in_forwards(config)
  config.objective.state_steps = 3
  on_path = train_step.flops_in_forwards(config)
  assert on_path["sct"] == flops["sct"]
  for run in ("scd", "scd_vsd"):
    assert on_path[run] == pytest.approx(flops[run] + 3, abs=0.2)


@pytest.mark.slow
def test_a_tangent_with_a_pass_of_its_own_costs_one_forward_pass_more():
  config = wide_config()
  flops = train_step.flops_in_forwards(config)
  config.objective.tangent_dtype = "float32"
  apart = train_step.flops_in_forwards(config)
  assert apart["diffusion"] == flops["diffusion"]
  for run in ("sct", "scd"):
    assert 0.9 <= apart[run] - flops[run] <= 1.1
