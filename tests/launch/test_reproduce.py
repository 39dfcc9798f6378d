"""launch/reproduce.sh writes docs/ from a whole sweep alone."""

import os

import pytest

LOG = 'echo "${{0##*/}} $*" >> "{root}/log"\n'
SWEEP = """
for word; do
  case $word in --workdir=*) folder=${word#*=} ;; esac
done
mkdir -p "$folder"
touch "$folder/table.csv"
exit "${CODE:-0}"
"""


@pytest.fixture
def reproduce(repo, program, bash):
  """Returns `reproduce(*flags, code)`: its exit code, and the stubs' calls."""
  log = LOG.format(root=repo)
  program(repo / "launch" / "setup.sh", log)
  program(repo / ".venv" / "bin" / "scm-jax", log + SWEEP)
  program(repo / ".venv" / "bin" / "python", log)

  def run(*flags, code=0):
    env = {**os.environ, "CODE": str(code)}
    result = bash(repo / "launch" / "reproduce.sh", *flags, env=env)
    return result.returncode, (repo / "log").read_text().splitlines()

  return run


@pytest.mark.parametrize("code", (0, 1))  # 1: some run failed, a result too
def test_a_whole_sweep_makes_the_page(reproduce, code):
  ended, [setup, sweep, page] = reproduce("--workdir=w", code=code)
  assert ended == code and setup == "setup.sh train"
  assert sweep == (
    "scm-jax sweep --config=configs/miniature.py --workdir=w --parallel=2"
  )
  assert page == "python examples/reproduction.py w/table.csv docs"


def test_the_methods_have_their_own_tables(reproduce):
  _, [_, sweep, page] = reproduce("--config=methods", "--parallel=1")
  assert sweep == (
    "scm-jax sweep --config=configs/methods.py --workdir=runs/methods"
    " --parallel=1"
  )
  assert page == "python examples/methods.py runs/methods docs"


@pytest.mark.parametrize("flag", ("--only=*mnist*", "--tiny"))
def test_a_part_leaves_the_page(reproduce, flag):
  ended, lines = reproduce("--workdir=w", flag)
  assert ended == 0 and len(lines) == 2


def test_a_sweep_that_could_not_run_leaves_the_page(reproduce):
  ended, lines = reproduce("--workdir=w", code=2)
  assert ended == 2 and len(lines) == 2
