"""Sums over microbatches are those of the whole batch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, PartitionSpec

from scm_jax.objectives import diagnostics
from scm_jax.training import accumulation, sharding
from scm_jax.training.objective import Objective

BATCH = 12
SPEC = PartitionSpec()


def loss(params, teacher_params, draws, step):
  """A weighted mean over finite samples, with a metric of every kind."""
  del teacher_params, step
  x = draws["x0"]
  valid = diagnostics.finite(x)
  x = diagnostics.select(valid, x)
  errors = jnp.square(x @ params["a"] - draws["t"])
  total = diagnostics.mean(valid, errors)
  return total, {
    "loss": total,
    "output_rms": diagnostics.rms(valid, x),
    "nonfinite_samples": jnp.sum(~valid),
    "valid": valid,
    "by_time": diagnostics.by_time(draws["t"], valid, loss=errors),
  }


def gradient(microbatches, bad=()):
  rng = np.random.default_rng(0)
  x = rng.normal(size=(BATCH, 3)).astype(np.float32)
  x[list(bad)] = np.nan
  t = rng.uniform(0, 1.5, BATCH).astype(np.float32)
  # What is drawn may be nothing for each sample.
  nothing = np.zeros((BATCH, 0), np.float32)
  draws = {"x0": x, "t": t, "cond": {"label": np.arange(BATCH)}, "no": nothing}
  mesh = Mesh(
    np.asarray(jax.devices()[:1]).reshape(1, 1),
    (sharding.DATA, sharding.FSDP),
    axis_types=(AxisType.Auto,) * 2,
  )
  function = accumulation.make_gradient(
    Objective(lambda batch, key: batch, loss, None),
    *(mesh, {"a": SPEC}, None, accumulation.Options(microbatches)),
  )
  params = {"a": jnp.asarray([0.5, -1.0, 2.0])}
  return jax.jit(function)(params, None, draws, jnp.int32(0))


@pytest.mark.parametrize("microbatches", [2, 3, 12])
@pytest.mark.parametrize("bad", [(), (0, 1, 2, 3, 9)])
def test_equals_the_whole_batch(microbatches, bad):
  """Also where microbatches lose different numbers of samples, or all."""
  whole, parts = gradient(1, bad), gradient(microbatches, bad)
  close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5)
  jax.tree.map(close, whole, parts)
  _, metrics = parts
  assert metrics["nonfinite_samples"] == len(bad)
  assert metrics["by_time"]["count"].sum() == BATCH - len(bad)
  told = [*bad, -1, -1, -1, -1][: accumulation.NAMED]
  assert metrics["left_out"]["label"].tolist() == told


def test_the_whole_batch_is_what_the_objective_says():
  rng = np.random.default_rng(0)
  x = rng.normal(size=(BATCH, 3)).astype(np.float32)
  t = rng.uniform(0, 1.5, BATCH).astype(np.float32)
  grads, metrics = gradient(4)
  params = {"a": jnp.asarray([0.5, -1.0, 2.0])}
  draws = {"x0": jnp.asarray(x), "t": jnp.asarray(t)}
  expected, direct = jax.grad(loss, has_aux=True)(params, None, draws, 0)
  np.testing.assert_allclose(grads["a"], expected["a"], rtol=1e-5)
  for name in ("loss", "output_rms"):
    np.testing.assert_allclose(metrics[name], direct[name], rtol=1e-5)


def test_no_finite_sample_gives_zeros():
  grads, metrics = gradient(3, range(BATCH))
  assert not np.any(grads["a"]) and metrics["loss"] == 0
  assert metrics["nonfinite_samples"] == BATCH
