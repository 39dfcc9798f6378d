"""The comparison of methods is one at equal budgets."""

import json

import pytest

from scm_jax.cli import configs
from scm_jax.reporting import records
from scm_jax.sweeping import points, runs, scoring, table
from scm_jax.training import evaluations, resolve

CONFIG = "configs/methods.py"


@pytest.fixture
def resolved(tmp_path):
  made = points.checked(configs.load_sweep(CONFIG))
  made = points.chosen(made, "*_seed=0")
  return runs.resolve(made, CONFIG, {}, tmp_path, configs.parse_config)


def test_every_student_has_the_same_budget(resolved):
  """Its first stage or its mid-training included."""
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


def test_a_second_stage_has_its_ratio_to_the_first_ones_teacher(resolved):
  fd = {"teacher": 2.0, "ect": 4.0, "tcm": 5.0}
  for run in [run for run in resolved if run.point.group in fd]:
    group = run.point.group
    record = records.run_record(
      group,
      group,
      steps=1,
      nfe=1,
      params=9,
      scores={"fd": {"judge": fd[group]}, "num": 99},
    )
    words = scoring.flags(run.point.sampling[0])
    step = run.config.total_steps
    entry = {"flags": words, "step": step, "records": [record]}
    (run.folder / "checkpoints" / str(step)).mkdir(parents=True)
    (run.folder / scoring.SCORES).write_text(json.dumps([entry]))
  ratios = table.gather(resolved).set_index("objective").ratio.dropna()
  assert ratios.to_dict() == {"ect": 2.0, "tcm": 2.5}
