"""A step's figures where the device is known."""

import pytest

from scm_jax.acceptance import runs, steps
from scm_jax.acceptance.parts import Request
from scm_jax.errors import UserError
from scm_jax.planning import memory, targets
from scm_jax.training.benchmarks import train_step


@pytest.fixture(scope="module")
def run():
  name = runs.imagenet("scd", "s", tiny=True)
  return runs.run(name, **{"network.dtype": "bfloat16"})


@pytest.mark.slow
def test_the_plan_is_that_of_the_card(run):
  step, card = memory.Step(run), targets.CARDS["h200"]
  flops = {
    "step": train_step.arithmetic(run)[0],
    "forward": train_step.forward_arithmetic(run),
  }
  found = steps._predicted(run, card, flops, step)
  assert found["peak"] == card.flops
  assert found["bytes"] == step.need(run, 1, 1).total
  # The operations at 40 % of the peak, and the update of the state.
  assert found["ms"] > 1e3 * flops["step"] / (0.4 * card.flops)
  assert steps._predicted(run, None, flops, step)["ms"] is None


def test_a_step_without_room_is_no_result(monkeypatch, tmp_path):
  """It fails, so that the next call tries again."""
  monkeypatch.setattr(steps, "_timed", lambda run, repeats: None)
  options = {"run": "scd", "size": "s", "filter_order": "HWIO"}
  results = steps.measure(Request(options, True, {}, tmp_path))
  with pytest.raises(UserError, match="another process"):
    list(results)
