"""Parts run in processes of their own: none ends another, none is repeated."""

import json
import textwrap

import pytest

from scm_jax.acceptance import main, page, parts, record
from scm_jax.acceptance.parts import Part

# A part: each module counts how often it was asked, in a file.
MODULES = {
  "good": """
    yield "first", {"passed": True}
    if "second" not in request.have:
      yield "second", {"passed": True, "tiny": request.tiny}
  """,
  "broken": """
    yield "before", 1
    raise ValueError("no such thing")
  """,
  "endless": """
    import time
    yield "before", len(request.have)
    time.sleep(60)
  """,
  "dying": """
    import os, signal
    yield "before", 1
    os.kill(os.getpid(), signal.SIGKILL)
  """,
  "wrong": """
    yield "the check", {"passed": False}
  """,
}


@pytest.fixture
def accept(tmp_path, monkeypatch):
  """`accept(*names, minutes)`: the exit code and the record."""
  modules = tmp_path / "modules"
  modules.mkdir()
  for name, body in MODULES.items():
    body = textwrap.indent(textwrap.dedent(body), "  ")
    (modules / f"{name}.py").write_text(
      "def measure(request):\n"
      f"  with (request.out / '{name}').open('a') as file:\n"
      f"    file.write('x')\n{body}"
    )
  monkeypatch.syspath_prepend(modules)
  monkeypatch.setenv("PYTHONPATH", str(modules), prepend=":")
  table = {name: Part(name, name, minutes=0.0) for name in MODULES}
  table["lacking"] = Part(
    "lacking", "good", minutes=0.0, needs=("no_such_package",)
  )
  monkeypatch.setattr(parts, "PARTS", table)

  def run(*names, minutes=1.0):
    flags = [f"--out={tmp_path}", f"--parts={','.join(names)}"]
    code = main.main([*flags, f"--minutes={minutes}"])
    return code, record.Record(tmp_path, tiny=False).parts

  return run


def test_a_part_that_fails_ends_no_other(accept, tmp_path):
  code, found = accept("broken", "dying", "lacking", "good")
  assert code == 1
  assert found["good"]["state"] == record.DONE
  assert found["good"]["results"]["second"] == {"passed": True, "tiny": False}
  for name in ("broken", "dying"):
    assert found[name]["state"] == record.FAILED
    assert found[name]["results"] == {"before": 1}
  assert "no such thing" in found["broken"]["why"]
  assert found["lacking"]["state"] == record.IMPOSSIBLE
  assert "no_such_package" in found["lacking"]["why"]
  assert "no such thing" in (tmp_path / page.FILE).read_text()


def test_what_is_done_is_not_repeated(accept, tmp_path):
  assert accept("good", "broken")[0] == 1
  assert accept("good", "broken")[0] == 1
  assert (tmp_path / "good").read_text() == "x"
  assert (tmp_path / "broken").read_text() == "xx"


@pytest.mark.slow
def test_the_time_ends_a_part_and_the_next_call_goes_on(accept):
  code, found = accept("endless", "good", minutes=0.05)
  assert code == 0
  assert found["endless"]["state"] == record.CUT
  assert found["endless"]["results"] == {"before": 0}
  _, found = accept("endless", minutes=0.05)
  assert found["endless"]["results"] == {"before": 1}


def test_a_part_that_cannot_begin_is_said(accept, capfd, tmp_path):
  """Not only that the same command continues, which it would not."""
  parts.PARTS["good"] = Part("good", "good", minutes=1.0)
  code, found = accept("good", minutes=1.0)
  assert code == 0 and not found
  assert "more than: good (1)" in capfd.readouterr().err
  assert "| good |" in (tmp_path / page.FILE).read_text()


def test_a_folder_that_cannot_be_written_is_said(tmp_path, capfd):
  (tmp_path / page.FILE).mkdir()
  assert main.main([f"--out={tmp_path}", "--parts=machine"]) == 1
  assert page.FILE in capfd.readouterr().err


def test_without_an_accelerator_nothing_is_measured(accept):
  parts.PARTS["machine"] = Part("The machine", "broken", minutes=0.0)
  for _ in range(2):
    code, found = accept("machine", "good")
    assert code == 1 and list(found) == ["machine"]


def test_a_check_that_does_not_pass_is_an_error(accept):
  assert accept("good")[0] == 0
  assert accept("wrong")[0] == 1


def test_the_record_is_json(accept, tmp_path):
  accept("good")
  content = json.loads((tmp_path / record.FILE).read_text())
  assert content["parts"]["good"]["results"]["first"] == {"passed": True}


def test_a_record_that_cannot_go_on_is_said(accept, tmp_path, capfd):
  """One of the smallest networks, and a damaged one."""
  accept("good")
  flags = [f"--out={tmp_path}", "--parts=good"]
  assert main.main([*flags, "--tiny"]) == 2
  assert "--tiny" in capfd.readouterr().err
  (tmp_path / record.FILE).write_text('{"parts": {"go')
  assert main.main(flags) == 1
  assert record.FILE in capfd.readouterr().err
  assert (tmp_path / "good").read_text() == "x"


def test_parts_start_where_little_is_installed(python):
  """Without the packages that only some parts need, and name."""
  absent = {package for part in parts.PARTS.values() for package in part.needs}
  absent -= {"absl"}  # Orbax needs it
  modules = {part.module for part in parts.PARTS.values()}
  code = f"""
    import importlib, sys
    sys.modules.update(dict.fromkeys({sorted(absent)}))
    for module in {sorted(modules)}:
      importlib.import_module(module)
  """
  python("-c", textwrap.dedent(code))


def test_every_part_has_a_module():
  import importlib

  for part in parts.PARTS.values():
    assert callable(importlib.import_module(part.module).measure)


def test_mfu_leaves_recomputation_out():
  expected = {"model": 50.0, "step": 80.0, "peak": 100.0}
  assert page.mfu({"ms": 1000.0}, expected) == {"mfu": 0.5, "hfu": 0.8}
  unknown = page.mfu({"ms": 1000.0}, expected | {"peak": None})
  assert unknown == {"mfu": None, "hfu": None}
