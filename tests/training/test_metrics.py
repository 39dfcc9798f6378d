"""Metrics of a window of steps are reduced to scalars."""

import math

import jax.numpy as jnp
import pytest

from scm_jax.objectives.diagnostics import TIME_BINS
from scm_jax.training.monitoring.windows import Window


def bins(**values):
  return jnp.zeros(TIME_BINS).at[jnp.array([0, 3])].set(jnp.array(values["at"]))


def test_summary():
  window = Window()
  for step, loss in enumerate([1.0, 2.0, 6.0], 11):
    window.add(
      step,
      {
        "loss": jnp.float32(loss),
        "nonfinite_samples": jnp.int32(step - 11),
        "nonfinite_gradients": jnp.int32(2),
        "by_time": {
          "loss": bins(at=[loss, 10 * loss]),
          "count": bins(at=[float(step == 11), 2.0]),
        },
      },
    )
  assert window.step == 13 and window.count == 3
  summary = window.summary()
  width = math.pi / 2 / TIME_BINS
  assert summary == {
    "loss": 3.0,  # a mean
    "nonfinite_samples": 3.0,  # counts add up
    "nonfinite_gradients": 6.0,
    # Sums over counts, not means of means; bins without samples are left out.
    f"loss/t={0.5 * width:.2f}": 9.0,
    f"loss/t={3.5 * width:.2f}": 15.0,
  }
  assert all(type(value) is float for value in summary.values())


def test_both_times_of_jumps():
  window = Window()
  for loss in (1.0, 5.0):
    grid = jnp.zeros((4, 4)).at[3, 1].set(2.0)
    window.add(1, {"by_jump": {"loss": loss * grid, "count": grid}})
  width = math.pi / 8
  name = f"loss/t={3.5 * width:.2f},s={1.5 * width:.2f}"
  assert window.summary() == {name: 3.0}


def test_without_bins():
  window = Window()
  window.add(1, {"loss": jnp.float32(math.inf)})
  assert window.summary() == {"loss": math.inf}


def test_bins_without_samples_are_left_out():
  window = Window()
  nothing = jnp.zeros(TIME_BINS)
  window.add(1, {"by_time": {"loss": nothing, "count": nothing}})
  assert window.summary() == pytest.approx({})
