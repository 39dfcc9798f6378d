"""The repository's workflows, issue forms and citation hold together."""

import os
import pathlib
import re
import shlex
import tomllib

import pytest
import yaml

ROOT = pathlib.Path(__file__).parents[2]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
FORMS = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))


def commands(workflow: pathlib.Path) -> list[list[str]]:
  """Returns the words of each line that a workflow's steps run."""
  jobs = yaml.safe_load(workflow.read_text())["jobs"].values()
  steps = [step for job in jobs for step in job["steps"]]
  assert all(("run" in step) != ("uses" in step) for step in steps)
  lines = "\n".join(step.get("run", "") for step in steps).splitlines()
  return [words for line in lines if (words := shlex.split(line))]


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.stem)
def test_the_scripts_of_a_workflow_exist(workflow):
  programs = [ROOT / command[0] for command in commands(workflow)]
  assert programs
  assert all(os.access(path, os.X_OK) and path.is_file() for path in programs)


def test_pushes_run_what_developers_run_and_weeks_run_all():
  calls = {w.stem: [c[0] for c in commands(w)] for w in WORKFLOWS}
  assert calls["test"] == ["launch/test.sh"]
  assert calls["weekly"] == [".ci/run"]


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_is_given_few_rights_and_an_end(workflow):
  content = yaml.safe_load(workflow.read_text())
  assert content["permissions"] == {"contents": "read"}
  for job in content["jobs"].values():
    assert job["timeout-minutes"] <= 180
    versions = [
      s["uses"].partition("@")[2] for s in job["steps"] if "uses" in s
    ]
    assert all(re.fullmatch(r"v\d+", version) for version in versions)


@pytest.mark.parametrize("form", FORMS, ids=lambda path: path.stem)
def test_an_issue_form_can_be_shown(form):
  content = yaml.safe_load(form.read_text())
  if form.stem == "config":
    return
  assert content["name"] and content["description"]
  fields = [field for field in content["body"] if field["type"] != "markdown"]
  ids = [field["id"] for field in fields]
  assert len(set(ids)) == len(ids) > 0
  assert all(field["attributes"]["label"] for field in fields)


def test_the_citation_is_of_this_version():
  citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
  project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
  assert str(citation["version"]) == project["version"]
  assert citation["license"] == project["license"]
