"""Gradients that are not finite are reported, isolated, or end the run."""

import logging
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh

from scm_jax.errors import UserError
from scm_jax.networks import layers
from scm_jax.training import accumulation, sharding
from scm_jax.training.monitoring import health
from scm_jax.training.monitoring.windows import Window
from scm_jax.training.objective import Objective

BAD = 3  # the class that overflows inside of the network


@pytest.fixture(scope="module")
def _overflowing(new_sharing):
  """Makes one label's embedding infinite, while its images are finite."""
  plain = layers.one_hot_label

  def embed(label, num_classes):
    rows = plain(label, num_classes)
    return jnp.where(label[:, None] == BAD, jnp.inf, rows)

  with pytest.MonkeyPatch.context() as patch, new_sharing().on():
    patch.setattr(layers, "one_hot_label", embed)
    yield


@pytest.fixture
def overflowing(_overflowing, own_steps):
  """The same; steps are shared among these runs alone."""


def labels(*bad_steps):
  """Returns an `on_batch` that puts a bad label into these steps alone."""

  def on_batch(step, batch):
    label = np.where(batch["label"] == BAD, BAD + 1, batch["label"])
    if step in bad_steps:
      label[0] = BAD
    return {**batch, "label": label}

  return on_batch


FLAGS = ("teacher", "--config.objective.label_dropout=0.0")


@pytest.mark.slow
def test_a_class_that_overflows_stops_the_run(
  overflowing, train, make_config, steps_kept, tmp_path
):
  """Its loss looks normal, but almost all of its gradient is lost."""
  config = make_config(*FLAGS, "--config.total_steps=40")
  with pytest.raises(UserError) as info:
    train(config, tmp_path, labels(*range(5, 41)))
  said = str(info.value)
  assert (
    f"not finite in {health.PATIENCE} steps in a row, up to step 14" in said
  )
  assert f"with label {BAD}" in said and "t=" in said and "\n" not in said
  assert f"the last good checkpoint is {tmp_path}/checkpoints/12" in said
  assert max(steps_kept(tmp_path)) == 12


@pytest.mark.slow
def test_or_warns(overflowing, train, make_config, tmp_path, caplog):
  config = make_config(
    *(*FLAGS, "--config.total_steps=20", "--config.nonfinite=warn"),
    "--config.checkpoint_every=20",
  )
  assert train(config, tmp_path, labels(*range(5, 21)))
  warned = [r for r in caplog.records if r.levelno == logging.WARNING]
  texts = [r.getMessage() for r in warned if "not finite" in r.getMessage()]
  assert len(texts) == 8 and all(f"label {BAD}" in text for text in texts)


@pytest.mark.slow
def test_a_few_steps_warn_alone(
  overflowing, train, make_config, read_metrics, tmp_path, caplog
):
  config = make_config(*FLAGS)
  assert train(config, tmp_path, labels(3))
  [text] = [r.getMessage() for r in caplog.records if "not finite" in r.message]
  assert "by step 4" in text and "in 1 of 2 steps" in text
  bad = [line["nonfinite_gradients"] for line in read_metrics(tmp_path)]
  assert bad[0] == 0 < bad[1] and bad[2:] == [0, 0]


@pytest.mark.slow
def test_isolation_keeps_the_gradient(
  overflowing, train, make_config, read_metrics, tmp_path, caplog
):
  config = make_config(*FLAGS, "--config.isolate=true")
  assert train(config, tmp_path, labels(*range(1, 9)))
  for line in read_metrics(tmp_path):
    assert line["nonfinite_gradients"] == 0 < line["gradient_norm"]
    assert line["nonfinite_samples"] == 2  # one in each of two steps
  assert "not finite" not in caplog.text


BATCH = 12


def loss(params, teacher_params, draws, step):
  """Returns a loss that overflows inside for samples with `t` of 1."""
  x, t = draws["x0"], draws["t"]
  valid = jnp.isfinite(x).all(axis=1)
  hidden = jnp.where(valid[:, None], x, 0.0) * params["a"]
  hidden = jnp.where(t[:, None] == 1, hidden / 0.0, hidden)
  output = jnp.sum(jnp.square(hidden), axis=1)
  valid &= jnp.isfinite(output)
  output = jnp.where(valid, output, 0.0)
  mean = output.sum() / jnp.maximum(valid.sum(), 1)
  count = jnp.sum(~valid)
  return mean, {"loss": mean, "nonfinite_samples": count, "valid": valid}


def gradient(bad, microbatches=1, isolated=True):
  rng = np.random.default_rng(0)
  x0 = rng.normal(size=(BATCH, 3)).astype(np.float32)
  t = rng.uniform(0.1, 0.9, BATCH).astype(np.float32)
  t[list(bad)] = 1
  draws = {"x0": x0, "t": t, "cond": {"label": np.arange(BATCH)}}
  axes = (sharding.DATA, sharding.FSDP)
  devices = np.asarray(jax.devices()[:1]).reshape(1, 1)
  mesh = Mesh(devices, axes, axis_types=(AxisType.Auto,) * 2)
  function = accumulation.make_gradient(
    Objective(lambda batch, key: batch, loss, None),
    mesh,
    {"a": sharding.REPLICATED},
    None,
    accumulation.Options(microbatches, isolated=isolated),
  )
  params = {"a": jnp.asarray([0.5, -1.0, 2.0])}
  grads, metrics = jax.jit(function)(params, None, draws, jnp.int32(0))
  keep = np.delete(np.arange(BATCH), list(bad))
  direct = lambda params: loss(params, None, {"x0": x0[keep], "t": t[keep]}, 0)[
    0
  ]
  return grads["a"], metrics, jax.grad(direct)(params)["a"]


@pytest.mark.parametrize("microbatches", [1, 3])
@pytest.mark.parametrize("bad", [(), (2,), (0, 1, 2, 3, 7)])
def test_the_gradient_is_that_of_the_other_samples(bad, microbatches):
  """This holds for a microbatch without any valid sample, too."""
  found, metrics, expected = gradient(bad, microbatches)
  np.testing.assert_allclose(found, expected, rtol=1e-5)
  assert metrics["nonfinite_samples"] == len(bad)
  told = [*bad, -1, -1, -1, -1][: accumulation.NAMED]
  assert metrics["left_out"]["label"].tolist() == told


def test_without_isolation_it_is_spoilt():
  found, metrics, _ = gradient((2,), isolated=False)
  assert np.isnan(found).all() and np.isfinite(metrics["loss"])
  assert metrics["left_out"]["t"].tolist() == [1, -1, -1, -1]


def window(*bad):
  """Returns a window of steps whose gradients are bad or not."""
  found = Window()
  for step, flag in enumerate(bad, 1):
    none = {"t": -np.ones(4), "label": -np.ones(4, np.int32)}
    found.add(step, {"nonfinite_gradients": 7 * flag, "left_out": none})
  return found


def test_steps_in_a_row_are_counted_across_windows():
  first = window(True, False, True, True).nonfinite(5)
  assert (first.steps, first.longest, first.last) == (3, 6, 2)
  second = window(True, True, False).nonfinite(first.last)
  assert (second.steps, second.longest, second.last) == (2, 4, 0)
  assert window(False).nonfinite(3).longest == 0


@pytest.mark.parametrize(
  ("rms", "bad"), [(101.0, 0), (float("nan"), 0), (1.0, 5)]
)
def test_a_last_step_that_diverged_is_not_lost_in_the_mean(rms, bad):
  """A checkpoint of it would be saved, and a run could not go on from it."""
  run = types.SimpleNamespace(
    batch_size=8, divergence_limit=100.0, nonfinite="stop"
  )
  kept = types.SimpleNamespace(wait=lambda: None, good=lambda: "all is well")
  found = window(*[False] * 100)
  for metrics in found._pending:
    metrics |= {"loss": 1.0, "output_rms": 1.0, "nonfinite_samples": 0}
  health.Health(run, kept).close(found)
  found._pending[-1].update(output_rms=rms, nonfinite_samples=bad)
  with pytest.raises(UserError, match="diverged by step 100"):
    health.Health(run, kept).close(found)
