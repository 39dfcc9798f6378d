"""The comparison of methods is one at equal budgets."""

import pytest

from scm_jax.cli import configs
from scm_jax.sweeping import points, runs
from scm_jax.training import evaluations, resolve

CONFIG = "configs/methods.py"


def test_every_student_has_the_same_budget(tmp_path):
  """Its first stage or its mid-training included."""
  made = points.checked(configs.load_sweep(CONFIG))
  made = points.chosen(made, "*_seed=0")
  resolved = runs.resolve(made, CONFIG, {}, tmp_path, configs.parse_config)
  totals, stages = {}, set()
  for run in resolved:
    if not run.point.needs:
      continue  # teachers are not in the budget
    config = resolve.resolve(run.config)
    totals[run.name] = evaluations.total(config, config.total_steps)
    needs = map(run.point.needs.get, ("start", "teacher"))
    for stage in totals.keys() & set(needs):
      totals[run.name] += totals[stage]
      stages.add(stage)
  students = totals.keys() - stages
  assert len(students) >= 9
  expected = totals["scd_seed=0"]
  for name in students:
    assert totals[name] == pytest.approx(expected, rel=1e-3), name
