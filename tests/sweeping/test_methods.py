"""The comparison of methods is one at equal budgets."""

import pytest

from scm_jax.cli import configs
from scm_jax.sweeping import points, runs
from scm_jax.training import evaluations, resolve

CONFIG = "configs/methods.py"


def test_every_student_has_the_same_budget(tmp_path):
  """Its mid-training included."""
  made = points.checked(configs.load_sweep(CONFIG))
  made = points.chosen(made, "*_seed=0")
  resolved = runs.resolve(made, CONFIG, {}, tmp_path, configs.parse_config)
  totals, starts = {}, set()
  for run in resolved:
    config = resolve.resolve(run.config)
    totals[run.name] = evaluations.total(config, config.total_steps)
    if start := run.point.needs.get("start"):
      totals[run.name] += totals[start]
      starts.add(start)
  students = {run.name for run in resolved if run.point.needs} - starts
  assert len(students) >= 9
  expected = totals["scd_seed=0"]
  for name in students:
    assert totals[name] == pytest.approx(expected, rel=1e-3), name
