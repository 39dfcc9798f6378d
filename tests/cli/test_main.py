"""The command line's frame: exit codes, one-line errors, quick help."""

import os
import subprocess
import sys
import textwrap

import pytest

from scm_jax.cli import main as cli
from scm_jax.errors import ConfigError, UserError

TASK = '''
"""A task for tests: raises what its flag --raises says."""
import errno
from scm_jax.cli import configs, flags
from scm_jax.errors import ConfigError, UserError

EXAMPLE = "scm-jax fake --workdir=runs/x"

def add_arguments(parser):
  parser.add_argument("--workdir", required=True, help="where it goes")
  parser.add_argument("--num", type=int, default=1)
  parser.add_argument("--raises", default="")
  flags.adder({"config": configs.FLAGS})(parser)

def run(args, config_argv):
  if args.raises:
    raise eval(args.raises)
  print(args.workdir, args.num, config_argv)
  return 1 if args.num == 13 else None
'''

PLAIN_TASK = """
EXAMPLE = "scm-jax plain"

def add_arguments(parser):
  parser.add_argument("--steps", type=int)

def run(args, config_argv):
  print(args.steps, config_argv)
"""


@pytest.fixture(autouse=True)
def tasks(tmp_path, monkeypatch):
  """Two small tasks in place of the real ones."""
  (tmp_path / "fake_task.py").write_text(TASK)
  (tmp_path / "plain_task.py").write_text(PLAIN_TASK)
  monkeypatch.syspath_prepend(tmp_path)
  monkeypatch.setattr(
    cli,
    "TASKS",
    {"fake": ("fake_task", "a test"), "plain": ("plain_task", "another")},
  )
  yield
  for name in ("fake_task", "plain_task"):
    sys.modules.pop(name, None)


def run(capsys, *argv: str) -> tuple[int, str, str]:
  code = cli.main(argv)
  out, err = capsys.readouterr()
  return code, out, err


def one_line(err: str) -> str:
  assert err.count("\n") == 1 and err.endswith("\n"), err
  return err.strip()


def test_runs_the_task_with_its_arguments(capsys):
  code, out, err = run(capsys, "fake", "--workdir=w", "--num", "3")
  assert (code, out, err) == (0, "w 3 []\n", "")


def test_config_arguments_go_through_in_both_spellings(capsys):
  argv = "--config c.py:tiny --workdir=w --config.a=-1 --config.b -1.5".split()
  code, out, _ = run(capsys, "fake", *argv)
  assert code == 0
  expected = ["--config=c.py:tiny", "--config.a=-1", "--config.b=-1.5"]
  assert out == f"w 1 {expected}\n"


def test_return_value_is_the_exit_code(capsys):
  assert run(capsys, "fake", "--workdir=w", "--num=13")[0] == 1


@pytest.mark.parametrize(
  ("argv", "parts"),
  [
    (["fkae"], ["scm-jax: no task 'fkae'", "did you mean 'fake'?"]),
    (["zzz"], ["scm-jax: no task 'zzz'", "fake, plain"]),
    ([], ["scm-jax: which task?", "fake, plain", "--help"]),
    (["--workdir=w"], ["scm-jax: the task comes first", "fake, plain"]),
    # The misspelt flag is named, not the required one that is then missing.
    (
      ["fake", "--wrkdir=w"],
      ["scm-jax fake: no flag --wrkdir", "did you mean '--workdir'?"],
    ),
    # No abbreviations: a flag added later must not change what one means.
    (["fake", "--work=w"], ["no flag --work;", "'--workdir'"]),
    (["fake"], ["required: --workdir", "scm-jax fake --help"]),
    (["fake", "--workdir=w", "--num=x"], ["--num", "'x'"]),
    (["fake", "--workdir=w", "more"], ["unrecognized", "more"]),
    (["fake", "--workdir=w", "-x"], ["unrecognized", "-x"]),
    (["plain", "--config=c.py"], ["scm-jax plain: no flag --config;"]),
    (["plain", "--config.lr=1"], ["scm-jax plain: no flag --config.lr;"]),
  ],
)
def test_bad_arguments_are_one_line_and_exit_2(capsys, argv, parts):
  code, out, err = run(capsys, *argv)
  assert code == 2
  assert out == ""
  for part in parts:
    assert part in one_line(err)


@pytest.mark.parametrize(
  ("raises", "code", "text"),
  [
    ("UserError('no such run')", UserError.exit_code, "no such run"),
    ("UserError('two\\nlines')", 1, "two lines"),
    ("ConfigError('bad shape')", ConfigError.exit_code, "bad shape"),
    ("KeyboardInterrupt()", 130, "interrupted"),
    (
      "OSError(errno.ENOSPC, 'No space left on device', 'runs/x/a')",
      1,
      "No space left on device: 'runs/x/a'",
    ),
    (
      "PermissionError(errno.EACCES, 'Permission denied', 'a', None, 'b')",
      1,
      "Permission denied: 'a' -> 'b'",
    ),
    ("OSError('cannot identify image')", 1, "OSError: cannot identify image"),
    (
      "ModuleNotFoundError('no', name='clu.metrics')",
      1,
      "needs the package 'clu.metrics', which is not installed; "
      "pip install 'scm-jax[train]'",
    ),
    (
      "ModuleNotFoundError('no', name='tensorflow')",
      1,
      "needs the package 'tensorflow', which is not installed; "
      "pip install 'scm-jax[prepare]'",
    ),
  ],
)
def test_expected_failures_are_one_line(capsys, raises, code, text):
  result = run(capsys, "fake", "--workdir=w", f"--raises={raises}")
  assert result[:2] == (code, "")
  assert one_line(result[2]) == f"scm-jax fake: {text}"


def test_a_package_missed_by_a_library_is_one_line(capsys, monkeypatch):
  """As fsspec says it of a bucket's."""

  def fail(*args):
    try:
      raise ModuleNotFoundError("no", name="gcsfs")
    except ModuleNotFoundError as error:
      raise ImportError("Please install gcsfs") from error

  monkeypatch.setattr(cli, "_run_task", fail)
  code, _, err = run(capsys, "fake", "--workdir=w")
  assert code == 1
  assert "needs the package 'gcsfs', which is not installed" in one_line(err)


@pytest.mark.parametrize(
  "raises",
  [
    "ValueError('a bug')",
    "ImportError('cannot import name', name='jax')",
    "ModuleNotFoundError('no', name='scm_jax.gone')",
  ],
)
def test_a_bug_is_not_swallowed(raises):
  with pytest.raises((ValueError, ImportError)):
    cli.main(["fake", "--workdir=w", f"--raises={raises}"])


def test_help_lists_the_tasks(capsys):
  code, out, _ = run(capsys, "--help")
  assert code == 0
  assert "fake   a test" in out and "plain  another" in out


def test_task_help_shows_flags_and_example(capsys):
  code, out, _ = run(capsys, "fake", "--help")
  assert code == 0
  for text in (
    "--workdir",
    "where it goes",
    "--config FILE.py[:ARG]",
    "--config.KEY VALUE",
    "scm-jax fake --workdir=runs/x",
  ):
    assert text in out
  assert "--config" not in run(capsys, "plain", "--help")[1]


def python(code: str, tmp_path) -> subprocess.CompletedProcess[str]:
  paths = [str(tmp_path), os.getcwd(), os.environ.get("PYTHONPATH", "")]
  return subprocess.run(
    [sys.executable, "-c", textwrap.dedent(code)],
    env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
    capture_output=True,
    text=True,
  )


def test_help_of_every_real_task_imports_no_heavy_package(tmp_path):
  result = python(
    """
    import sys
    from scm_jax.cli import main
    codes = [main.main(["--help"])]
    for task in main.TASKS:
      codes.append(main.main([task, "--help"]))
    heavy = {"jax", "numpy", "tensorflow", "flax", "absl", "ml_collections"}
    assert len(codes) > 1
    print(set(codes), sorted(heavy & set(sys.modules)))
    """,
    tmp_path,
  )
  assert result.stderr == ""
  assert result.stdout.splitlines()[-1] == "{0} []"


def test_a_bug_keeps_its_traceback_and_exits_1(tmp_path):
  result = python(
    """
    import sys
    from scm_jax.cli import main
    main.TASKS = {"fake": ("fake_task", "a test")}
    sys.exit(main.main(["fake", "--workdir=w", "--raises=ValueError('a bug')"]))
    """,
    tmp_path,
  )
  assert result.returncode == 1
  assert "Traceback" in result.stderr
  assert result.stderr.endswith("ValueError: a bug\n")


def test_module_entry_point_exits_2_without_traceback(tmp_path):
  result = subprocess.run(
    [sys.executable, "-m", "scm_jax", "trian"], capture_output=True, text=True
  )
  assert result.returncode == 2
  assert one_line(result.stderr) == (
    "scm-jax: no task 'trian'; did you mean 'train'?"
  )


def test_a_reader_that_leaves_early_is_no_traceback(tmp_path):
  script = (
    "from scm_jax.cli import main; import sys;"
    "main.TASKS = {'fake': ('fake_task', 'a test')};"
    "sys.exit(main.main(['fake', '--workdir=' + 'w' * 1_000_000]))"
  )
  paths = os.pathsep.join([str(tmp_path), os.getcwd()])
  result = subprocess.run(
    ["bash", "-c", '"$1" -c "$2" | head -c 10', "_", sys.executable, script],
    env={**os.environ, "PYTHONPATH": paths},
    capture_output=True,
    text=True,
  )
  assert (result.stdout, result.stderr) == ("w" * 10, "")
