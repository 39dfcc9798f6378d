"""launch/slurm.sh and its attempt with stubs of Slurm's commands.

`test_slurm_cluster` runs them on a real one.
"""

import os
import pathlib

import pytest

REPOSITORY = pathlib.Path(__file__).parents[2]
FLAGS = ("--config=configs/digits.py:run=scd,tiny", "--workdir=runs/a")
SBATCH = """
printf '%s\\n' "sbatch $*" >> "{root}/calls"
echo "xla ${{XLA_FLAGS:-}} cache ${{JAX_COMPILATION_CACHE_DIR:-}}" \\
  >> "{root}/environment"
[[ -z ${{REFUSE:-}} ]] || {{ echo "sbatch: error: Invalid qos" >&2; exit 1; }}
echo "7;cluster"
"""


@pytest.fixture
def slurm(repo, program, bash):
  """Returns `slurm(*flags)`: the result of slurm.sh and its calls."""
  calls = repo / "calls"
  (repo / "bin").mkdir()
  program(repo / "bin" / "sbatch", SBATCH.format(root=repo))
  program(repo / "launch" / "setup.sh", f'echo "setup $*" >> "{calls}"')
  program(repo / ".venv" / "bin" / "python", 'exit "${NO_CUDA:-0}"')
  unset = ("XLA_", "JAX_")
  env = {k: v for k, v in os.environ.items() if not k.startswith(unset)}
  env["PATH"] = f"{repo / 'bin'}{os.pathsep}{env['PATH']}"

  def run(*flags, script=repo / "launch" / "slurm.sh", cwd=repo, **more):
    calls.write_text("")
    result = bash(script, *flags, cwd=cwd, env={**env, **more})
    return result, calls.read_text().splitlines()

  return run


def test_a_job_has_one_process_a_gpu(slurm, repo):
  result, (setup, sbatch) = slurm(*FLAGS, "--nodes=2", "--config.seed=3")
  assert result.returncode == 0, result.stderr
  assert setup == "setup train"
  flags, _, command = sbatch.partition(" launch/slurm/attempt.sh ")
  assert {
    "--nodes=2",
    "--ntasks-per-node=8",
    "--gpus-per-node=8",
    "--requeue",
    "--signal=B:USR1@300",
    "--job-name=scm-a",
  } <= set(flags.split())
  # Paths are absolute, because the job runs in another folder.
  assert command == (
    f"{repo}/.venv/bin/scm-jax train"
    f" --config={repo}/configs/digits.py:run=scd,tiny"
    f" --workdir={repo}/runs/a --config.seed=3"
  )
  assert f"{repo}/runs/slurm/scm-a-7.log" in result.stdout
  environment = (repo / "environment").read_text()
  assert "--xla_gpu_enable_latency_hiding_scheduler=true" in environment
  assert f"cache {repo}/.cache/jax" in environment


def test_paths_are_those_of_the_users_folder(slurm, repo, tmp_path):
  """The repository may have other folders of the same names."""
  here = tmp_path / "my runs"
  wrong = here / "snapshots" / "5", repo / "teacher", repo / "start"
  for folder in (here / "teacher", *wrong):
    folder.mkdir(parents=True)
  flags = ("--config.teacher=teacher", "--config.start=start")
  flags += ("--config.guide=snapshots/5",)  # the teacher's
  result, (_, sbatch) = slurm(
    "--config=digits:tiny", "--workdir=a", *flags, cwd=here
  )
  assert result.returncode == 0, result.stderr
  expected = (f"--config.teacher={here}/teacher", *flags[1:])
  assert f" {' '.join(expected)}" in sbatch


@pytest.mark.parametrize("end", ["", "\n"])
def test_every_line_of_an_array_is_a_run(slurm, tmp_path, end):
  file = tmp_path / "runs.tsv"
  file.write_text(f"--config=a\t--workdir=/1\n--config=a\t--workdir=/2{end}")
  _, (_, sbatch) = slurm(f"--array={file}")
  assert " --array=0-1 " in sbatch


def test_a_shipped_config_has_a_name(slurm, repo):
  result, (_, sbatch) = slurm("--config=digits:tiny", "--workdir=runs/a")
  assert result.returncode == 0, result.stderr
  assert f" --config={repo}/configs/digits.py:tiny " in sbatch


def test_flags_go_on_to_sbatch(slurm, repo):
  flags = ("--partition=p", "--account=me", "--time=4:00:00", "--qos=low")
  more = ("--gpus-per-node=0", "--save-seconds=60", "--sbatch=--exclusive")
  result, (_, sbatch) = slurm(*FLAGS, *flags, *more)
  assert result.returncode == 0, result.stderr
  given = {*flags, "--exclusive", "--ntasks-per-node=1", "--signal=B:USR1@60"}
  assert given <= set(sbatch.split())
  assert "--gpus-per-node" not in sbatch
  assert "xla " in (repo / "environment").read_text()


def test_what_the_user_set_stays(slurm, repo):
  slurm(*FLAGS, XLA_FLAGS="--mine", JAX_COMPILATION_CACHE_DIR="/mine")
  assert (repo / "environment").read_text() == "xla --mine cache /mine\n"


def test_dry_run_prints_a_script_that_does_the_same(slurm, repo, program):
  printed, calls = slurm(*FLAGS, "--nodes=3", "--dry-run")
  assert (printed.returncode, calls) == (0, [])
  assert not (repo / "runs").exists()
  _, real = slurm(*FLAGS, "--nodes=3")
  before = (repo / "environment").read_text()
  program(repo / "printed", printed.stdout)
  result, typed = slurm(script=repo / "printed")
  assert result.returncode == 0, result.stderr
  assert typed == real
  assert (repo / "environment").read_text() == before * 2


@pytest.mark.parametrize(
  ("flags", "message"),
  [
    (("--node=2",), "'--node=2'"),
    (("--workdir=a",), "give --config"),
    (("--config=configs/digits.py",), "give --workdir"),
    ((*FLAGS, "--nodes=0"), "--nodes=0"),
    ((*FLAGS, "--gpus-per-node=x"), "--gpus-per-node=x"),
    (("--config=no.py", "--workdir=a"), "no.py"),
    # It would save at once and return to the queue for ever.
    ((*FLAGS, "--time=5"), "--time=5 leaves no time"),
    ((*FLAGS, "--time=0-0:05:00"), "--save-seconds=300"),
    ((*FLAGS, "--time=1:00:00", "--save-seconds=3600"), "--save-seconds=3600"),
  ],
)
def test_bad_arguments_exit_2(slurm, flags, message):
  result, calls = slurm(*flags)
  assert (result.returncode, calls) == (2, [])
  assert message in result.stderr and result.stderr.count("\n") == 1


def test_jax_without_gpus_is_said_before_anything_is_submitted(slurm):
  result, calls = slurm(*FLAGS, NO_CUDA="1")
  assert (result.returncode, calls) == (1, ["setup train"])
  assert "SCM_DEVICE=cuda launch/setup.sh" in result.stderr
  assert slurm(*FLAGS, "--gpus-per-node=0", NO_CUDA="1")[0].returncode == 0


def test_a_refused_job_is_one_more_line(slurm):
  result, _ = slurm(*FLAGS, REFUSE="1")
  assert result.returncode == 1
  first, second = result.stderr.splitlines()
  assert first == "sbatch: error: Invalid qos"
  assert second.startswith("slurm.sh: ")


@pytest.mark.parametrize(
  ("script", "code", "calls", "said"),
  [
    ("echo run is complete, at step 9", 0, "", "complete"),
    ("true", 0, "scontrol requeue 7\n", "back into the queue"),
    ("exit 3", 3, "", "failed with exit code 3"),
    # Ahead of the limit: the step is told, saves, and the job comes back.
    (
      "kill -USR1 $PPID; sleep 1",
      0,
      "scancel --signal=TERM 7\nscontrol requeue 7\n",
      "the time limit is near",
    ),
    # Cancelled or preempted: Slurm knows what is next.
    ("kill -TERM $PPID; sleep 1", 0, "", "stopped by Slurm"),
  ],
)
def test_an_attempt(tmp_path, program, bash, script, code, calls, said):
  log = tmp_path / "calls"
  log.touch()
  program(tmp_path / "srun", script)
  for name in ("scancel", "scontrol"):
    program(tmp_path / name, f'echo "{name} $*" >> "{log}"')
  env = {
    **os.environ,
    "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}",
    "SLURM_JOB_ID": "7",
    "SLURM_JOB_NODELIST": "n1",
  }
  attempt = REPOSITORY / "launch" / "slurm" / "attempt.sh"
  result = bash(attempt, "scm-jax", env=env)
  assert result.returncode == code
  assert log.read_text() == calls
  assert said in result.stdout
