"""docs/configs.md says what the configs hold, line by line."""

import pathlib
import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest

from scm_jax import configuration
from scm_jax.defaults import get_defaults

DOCS = pathlib.Path(__file__).parents[2] / "docs" / "configs.md"
SIZES = {
  "cifar10": (),
  "imagenet64": ("s", "m", "l", "xl"),
  "imagenet512": ("s", "m", "l", "xl", "xxl"),
}
RUNS = {
  "all": ("teacher", "sct", "scd"),
  "students": ("sct", "scd"),
  "teacher, sct": ("teacher", "sct"),
  "teacher": ("teacher",),
  "sct": ("sct",),
  "scd": ("scd",),
}
NOT_PRINTED = "–"
# Fields that name the run itself.
ITSELF = {"run", "teacher"}


class Row(NamedTuple):
  what: str
  runs: str
  field: str
  paper: str
  ours: str
  source: str
  why: str


def rows(name: str) -> Iterator[Row]:
  """Of the table in the section of a config."""
  text = DOCS.read_text()
  (section,) = re.findall(
    rf"^## `configs/{name}.py`\n(.*?)(?=^## |\Z)", text, re.M | re.S
  )
  for line in section.splitlines():
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    if len(cells) == len(Row._fields) and cells[2].startswith("`"):
      yield Row(*cells)._replace(field=cells[2].strip("`"))


def shown(value: Any) -> str:
  """A value as the table has it."""
  if isinstance(value, tuple):
    return "(" + ", ".join(map(shown, value)) + ("," * (len(value) == 1)) + ")"
  if isinstance(value, bool | str):
    return str(value)
  thousands = value >= 10_000 and value % 1000 == 0
  return f"{value / 1000:.0f}k" if thousands else f"{value:g}"


def ours(
  load: Callable, parameters: Callable, name: str, runs: str, field: str
) -> str:
  """The cell of a row: one value, or one for each size."""

  def of(run: str, size: str) -> str:
    arg = f"run={run},size={size}" if size else f"run={run}"
    if field == "parameters":
      return f"{parameters(name, arg) / 1e6:.1f}"
    return shown(configuration.flatten(load(name, arg))[field])

  sizes = SIZES[name] or ("",)
  lines = {tuple(of(run, size) for size in sizes) for run in RUNS[runs]}
  (values,) = lines  # the same in all of these runs
  return values[0] if len(set(values)) == 1 else " / ".join(values)


@pytest.mark.parametrize("name", SIZES)
@pytest.mark.parametrize(
  "counts", [False, pytest.param(True, marks=pytest.mark.slow)]
)
def test_the_tables_say_what_the_configs_hold(load, parameters, name, counts):
  """The numbers of parameters apart: each traces networks of full depth."""
  for row in rows(name):
    if counts != (row.field == "parameters"):
      continue
    expected = ours(load, parameters, name, row.runs, row.field)
    assert row.ours == expected, f"{DOCS.name}, {name}: {row.field}, {row.runs}"


@pytest.mark.parametrize("name", SIZES)
def test_differences_are_explained(name):
  for row in rows(name):
    assert row.what and row.paper and row.ours
    if row.paper != row.ours:
      assert row.why, f"{name}: {row.field} is not the paper's; say why"
    if row.paper != NOT_PRINTED:
      assert row.source, f"{name}: {row.field} has no source"


@pytest.mark.parametrize("name", SIZES)
def test_nothing_that_a_config_sets_is_left_out(load, name):
  table = list(rows(name))
  assert len(table) > 30
  defaults = configuration.flatten(get_defaults())
  for run in RUNS["all"]:
    told = [row.field for row in table if run in RUNS[row.runs]]
    assert len(set(told)) == len(told)
    size = f",size={SIZES[name][0]}" if SIZES[name] else ""
    config = configuration.flatten(load(name, f"run={run}{size}"))
    changed = {field for field in config if config[field] != defaults[field]}
    assert changed - ITSELF <= set(told)
