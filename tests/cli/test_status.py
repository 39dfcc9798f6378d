"""`scm-jax status` of runs that were trained by the command line."""

import json

import pytest


def test_a_folder_of_runs(runs, command):
  code, out, err = command("status", f"--workdir={runs}", "--json")
  assert (code, err) == (0, "")
  found = {run["objective"]: run for run in json.loads(out)["runs"]}
  assert found.keys() == {"teacher", "scd"}
  for run in found.values():
    assert run["state"] == "complete" and run["processes"] == 1
    assert run["step"] == run["checkpoint"] == run["total_steps"] == 8
    assert run["seconds"] == pytest.approx(sum(run["seconds_of"].values()))
    assert 0 < run["goodput"] < 1
    assert run["seconds_of"]["repeated"] == 0 and not run["warnings"]


def test_the_table(runs, command):
  each = f"--workdir={runs}/scd,{runs}/teacher,{runs}/scd/"
  code, out, _ = command("status", each)
  assert code == 0
  head, *lines = out.splitlines()
  assert [line.split()[0] for line in lines] == [
    str(runs / name) for name in ("scd", "teacher")
  ]
  assert all("8 of 8" in line for line in lines) and "goodput" in head


def test_no_run(refused, tmp_path):
  line = refused(1, "status", f"--workdir={tmp_path}")
  assert f"{tmp_path} is not a workdir" in line
