"""The stored runs are those of the configs; distances mean what they say."""

import json

import jax
import numpy as np
import pytest

from scm_jax.acceptance import correctness, reference, runs
from scm_jax.objectives import OBJECTIVES
from scm_jax.training import resolve


def test_the_stored_configs_are_current():
  """If not, run `python -m scm_jax.acceptance.reference` on a CPU."""
  current = json.loads(json.dumps(reference.configs()))
  stored = runs.reference()["configs"]
  assert stored == {name: current[name] for name in stored}


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_run_is_that_of_its_config(objective):
  from configs import digits

  config = digits.get_config(f"run={objective}")
  config.teacher = "random"
  assert runs.run(runs.digits(objective, False)) == resolve.resolve(config)


@pytest.mark.parametrize("error", [0.0, 1e-6, 1e-2])
def test_the_distance_is_relative(error):
  generator = np.random.default_rng(5)
  tree = [generator.standard_normal((50, 3)) for _ in range(100)]
  other = [x + error * generator.standard_normal(x.shape) for x in tree]
  found, expected = (
    {"loss": 1.0, "params": correctness._sketch(t)} for t in (other, tree)
  )
  distances = correctness._distances("step", found, expected)
  assert distances["params"] == pytest.approx(error, rel=0.3)


def test_a_wrong_gradient_is_found():
  """That of one array is wrong by a hundredth."""
  name = "step,sct,float32"
  stored = runs.reference()["results"][name]["values"]
  values = json.loads(json.dumps(stored))
  moved = values["gradient"]["products"]
  moved[5] += 0.01 * stored["gradient"]["norms"][5]
  distances = correctness._distances("step", values, stored)
  assert distances["gradient"] > correctness.ROUNDING["step"]


def test_random_weights_are_numpys():
  shapes = {"w": jax.ShapeDtypeStruct((3,), np.float32)}
  drawn = correctness._random(shapes)["w"]
  expected = np.random.default_rng(0).standard_normal(3).astype(np.float32)
  assert np.array_equal(drawn, expected)
