"""No task but `prepare` of TFDS's own datasets imports TensorFlow."""

import json
import pathlib

import pytest
from tensorboard.backend.event_processing import event_accumulator

# As if TensorFlow were installed, but imports of it, guarded or not, fail.
PROGRAM = """
import importlib.abc, importlib.machinery, sys

class Refused(importlib.abc.Loader):
  def exec_module(self, module):
    raise AssertionError(f"{module.__name__} is imported")

class Finder(importlib.abc.MetaPathFinder):
  def find_spec(self, name, path, target=None):
    if name.partition(".")[0] in ("tensorflow", "torch"):
      return importlib.machinery.ModuleSpec(name, Refused())

sys.meta_path.insert(0, Finder())
from scm_jax.cli import main
for argv in ARGVS:
  print(argv[0], main.main(argv), flush=True)
"""


@pytest.fixture(scope="module")
def workdir(
  flags, python, tmp_path_factory: pytest.TempPathFactory
) -> pathlib.Path:
  """Of a run in a process that cannot import TensorFlow; then sampled from.

  The dataset is built there too.
  """
  folder = tmp_path_factory.mktemp("without_tensorflow")
  path = folder / "run"
  config = [*flags("teacher"), f"--config.data.data_dir={folder}"]
  config += ["--config.log_every=2", "--config.profile=True"]
  config += ["--config.total_steps=12", "--config.checkpoint_every=12"]
  argvs = [
    ["train", f"--workdir={path}", *config],
    ["sample", f"--workdir={path}", "--num=2"],
    ["evaluate", f"--workdir={path}", "--num=80", "--features=pixels"]
    + ["--teacher-steps=1", "--allow-few", f"--cache={folder / 'cache'}"],
  ]
  program = PROGRAM.replace("ARGVS", repr(argvs))
  said = python("-c", program, cwd=pathlib.Path(__file__).parents[2])
  codes = [line for line in said.splitlines() if line[-2:] == " 0"]
  assert codes == ["train 0", "sample 0", "evaluate 0"]
  return path


@pytest.mark.slow
def test_event_files_say_what_metrics_say(workdir):
  text = (workdir / "metrics.jsonl").read_text()
  lines = [json.loads(line) for line in text.splitlines()]
  assert [line["step"] for line in lines] == [2, 4, 6, 8, 10, 12]
  events = event_accumulator.EventAccumulator(str(workdir))
  events.Reload()
  tags = set(events.Tags()["tensors"])
  assert tags == {name for line in lines for name in line} - {"step"} | {
    "samples"
  }
  for tag in tags - {"samples"}:
    found = {e.step: e.tensor_proto.float_val[0] for e in events.Tensors(tag)}
    assert found == pytest.approx(
      {line["step"]: line[tag] for line in lines if tag in line}, rel=1e-6
    )
  [samples] = events.Tensors("samples")
  assert samples.step == 12
  picture = (workdir / "samples/step_00000012.png").read_bytes()
  assert samples.tensor_proto.string_val[2] == picture


@pytest.mark.slow
def test_a_trace_that_had_begun_is_there(workdir):
  """It began after step 10, and the run ended before its five steps."""
  [trace] = workdir.rglob("*.xplane.pb")
  assert trace.relative_to(workdir).parts[:2] == ("plugins", "profile")


@pytest.mark.slow
def test_the_other_tasks(workdir):
  assert (workdir / "samples/samples.npz").exists()
  assert (workdir / "report.json").exists()
