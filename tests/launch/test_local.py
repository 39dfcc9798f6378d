"""launch/local.sh: the order of commands, resuming, failures and signals."""

import os
import signal
import subprocess
import time

import pytest

STUB = """
echo "$*" >> "{log}"
echo "$JAX_COMPILATION_CACHE_DIR" > "{root}/cache"
echo "$JAX_PLATFORMS $JAX_NUM_CPU_DEVICES" > "{root}/devices"
echo "$XLA_FLAGS" >> "{root}/flags"
if [[ "$*" == *"${{FAIL_ON:-nothing}}"* ]]; then exit 3; fi
if [[ "$*" == *"${{WAIT_ON:-nothing}}"* ]]; then
  trap 'echo saved >> "{log}"; exit 0' TERM INT
  echo >> "{root}/waiting"
  for _ in {{1..200}}; do sleep 0.1; done
fi
if [[ "$*" == *"${{MEET_ON:-nothing}}"* ]]; then # as long as it is alone
  echo >> "{root}/met"
  for _ in {{1..200}}; do
    (($(wc -l < "{root}/met") < 2)) || break
    sleep 0.1
  done
  echo "$(wc -l < "{root}/met") at a time"
fi
if [[ $1 == evaluate ]]; then echo "| the table |"; fi
"""


@pytest.fixture
def log(repo, program):
  """Returns the file that lists the calls of scm-jax and setup.sh stubs."""
  log = repo / "log"
  program(repo / "launch" / "setup.sh", f'echo "setup $*" >> "{log}"')
  program(repo / ".venv" / "bin" / "scm-jax", STUB.format(log=log, root=repo))
  program(repo / ".venv" / "bin" / "nproc", "echo ${CORES:-1}")
  return log


RUNS = ("teacher", "scd", "sct")


def job(folder: str, config: str, seed: int, tiny: str = "", end: str = ""):
  """Returns the four commands of one seed, as the stub logs them."""
  flags = dict.fromkeys(RUNS, f" --config.teacher={folder}/teacher")
  flags["teacher"] = ""
  trains = [
    f"train --config={config}run={run}{tiny} --workdir={folder}/{run}"
    f"{flags[run]} --config.seed={seed}{end}"
    for run in RUNS
  ]
  runs = ",".join(f"{folder}/{run}" for run in RUNS)
  return [
    *trains,
    f"evaluate --steps=1,2,4 --workdir={runs} --out={folder}",
  ]


def test_the_main_job(repo, bash, log):
  result = bash(repo / "launch" / "local.sh")
  assert result.returncode == 0, result.stderr
  assert log.read_text().splitlines() == [
    "setup train",
    *job("runs/digits", "configs/digits.py:", 0),
  ]
  lines = result.stdout.splitlines()
  assert lines[0].startswith("==> [1/4] train teacher, seed 0: scm-jax train")
  assert lines[1].startswith("==> [1/4] train teacher, seed 0: done in 0 min")
  # The table, that its stage is done, and the path of the report come last.
  assert lines[-3] == "| the table |"
  assert lines[-2].startswith("==> [4/4] evaluate: done in")
  assert "runs/digits/report.png" in lines[-1]


def test_data_of_the_users_folder(repo, bash, log, tmp_path):
  (tmp_path / "mine").mkdir()
  flag = "--config.data.data_dir=mine"
  result = bash(repo / "launch" / "local.sh", flag, cwd=tmp_path)
  assert result.returncode == 0, result.stderr
  assert f"--config.data.data_dir={tmp_path}/mine" in log.read_text()
  bash(repo / "launch" / "local.sh", flag, cwd=repo)
  assert log.read_text().rstrip().count(f" {flag}\n") == 3


@pytest.mark.parametrize("config", ["configs/mnist.py", "mnist"])
def test_tiny_run_of_another_config_with_argument_and_override(
  repo, bash, log, config
):
  result = bash(
    repo / "launch" / "local.sh",
    f"--config={config}:size=small",
    "--tiny",
    "--config.total_steps=7",
    cwd=repo,
  )
  assert result.returncode == 0, result.stderr
  assert log.read_text().splitlines()[1:] == job(
    "runs/mnist-tiny",
    "configs/mnist.py:size=small,",
    0,
    tiny=",tiny",
    end=" --config.total_steps=7",
  )


def test_several_seeds_have_a_folder_each(repo, bash, log):
  result = bash(repo / "launch" / "local.sh", "--seeds=0,3", "--workdir=/x/y/")
  assert result.returncode == 0, result.stderr
  assert log.read_text().splitlines()[1:] == [
    *job("/x/y/seed_0", "configs/digits.py:", 0),
    *job("/x/y/seed_3", "configs/digits.py:", 3),
  ]
  assert "[8/8]" in result.stdout
  assert "/x/y/seed_3/report.png" in result.stdout.splitlines()[-1]


@pytest.mark.parametrize(
  ("cwd", "given", "used"),
  [
    ("", "runs/mine", "runs/mine"),
    ("", "./runs/mine/", "runs/mine"),
    ("configs", "../mine", "mine"),
    ("..", "elsewhere", None),
    ("", "gs://bucket/mine", "gs://bucket/mine"),
  ],
)
def test_a_workdir_is_spelt_the_same_from_any_folder(
  repo, bash, log, cwd, given, used
):
  result = bash(
    repo / "launch" / "local.sh", f"--workdir={given}", cwd=repo / cwd
  )
  assert result.returncode == 0, result.stderr
  used = used or str(repo.parent / given)
  assert f"--workdir={used}/teacher " in log.read_text()


def test_a_linked_workdir_is_spelt_the_same_once_it_exists(repo, bash, log):
  link = repo.parent / "link"
  link.symlink_to(repo.parent / "real")
  (repo.parent / "real").mkdir()
  for _ in range(2):
    flag = f"--workdir={link}/runs/a"
    assert bash(repo / "launch" / "local.sh", flag).returncode == 0
    (repo.parent / "real" / "runs" / "a" / "teacher").mkdir(
      parents=True, exist_ok=True
    )
  first, second = log.read_text().split("setup train\n")[1:]
  assert first == second
  assert f"--workdir={repo.parent}/real/runs/a/teacher " in first


def test_a_config_is_looked_for_here_first(repo, bash, log):
  (repo.parent / "mine.py").write_text("")
  result = bash(
    repo / "launch" / "local.sh", "--config=mine.py", cwd=repo.parent
  )
  assert result.returncode == 0, result.stderr
  assert log.read_text().splitlines()[1:] == job(
    "runs/mine", f"{repo.parent}/mine.py:", 0
  )


def test_dry_run_prints_what_would_run(repo, bash, log):
  env = {**os.environ, "XLA_FLAGS": "--mine"}
  result = bash(
    repo / "launch" / "local.sh", "--dry-run", "--seeds=1,2", env=env
  )
  assert result.returncode == 0
  assert not log.exists()
  assert result.stdout.splitlines() == [
    f"scm-jax {line}"
    for seed in (1, 2)
    for line in job(f"runs/digits/seed_{seed}", "configs/digits.py:", seed)
  ]


def test_virtual_devices(repo, bash, log):
  script = repo / "launch" / "local.sh"
  result = bash(script, "--devices=8")
  assert result.returncode == 0, result.stderr
  assert (repo / "devices").read_text() == "cpu 8\n"
  env = {**os.environ, "XLA_FLAGS": "--mine"}
  lines = bash(script, "--devices=8", "--dry-run", env=env).stdout.splitlines()
  assert lines == [
    "export JAX_PLATFORMS=cpu JAX_NUM_CPU_DEVICES=8",
    *(
      f"scm-jax {line}" for line in job("runs/digits", "configs/digits.py:", 0)
    ),
  ]


@pytest.mark.parametrize(
  ("flag", "message"),
  [
    ("--devices=two", "--devices=two"),
    ("--seed=1", "'--seed=1'"),
    ("--workdir=", "'--workdir='"),
    ("teacher", "'teacher'"),
    ("--seeds=1,", "--seeds=1,"),
    ("--config=configs/none.py", "configs/none.py"),
    ("--config=configs/digits.py:tiny,run=scd", "run="),
  ],
)
def test_bad_arguments_exit_2_before_anything_runs(
  repo, bash, log, flag, message
):
  result = bash(repo / "launch" / "local.sh", flag)
  assert result.returncode == 2
  assert result.stderr.count("\n") == 1
  assert message in result.stderr
  assert not log.exists()


def test_a_failed_stage_stops_with_its_exit_code(repo, bash, log):
  env = {**os.environ, "FAIL_ON": "run=scd"}
  result = bash(repo / "launch" / "local.sh", env=env)
  assert result.returncode == 3
  assert len(log.read_text().splitlines()) == 3  # setup, teacher, scd
  last = result.stdout.splitlines()[-1]
  assert "[2/4] train scd, seed 0: stopped with exit code 3" in last


def test_on_a_cpu_of_several_cores_the_students_train_side_by_side(
  repo, bash, log
):
  several = {**os.environ, "SCM_DEVICE": "cpu", "CORES": "2"}
  result = bash(
    repo / "launch" / "local.sh", env={**several, "MEET_ON": "run=s"}
  )
  assert result.returncode == 0, result.stderr
  teacher, *students, evaluate = job("runs/digits", "configs/digits.py:", 0)
  setup, *ran = log.read_text().splitlines()
  assert (ran[0], set(ran[1:3]), ran[3]) == (teacher, set(students), evaluate)
  lines = result.stdout.splitlines()
  for number, run in enumerate(("scd", "sct"), 2):
    assert f"{run}: 2 at a time" in lines
    start = f"{run}: ==> [{number}/4] train {run}, seed 0: "
    assert sum(line.startswith(start) for line in lines) == 2
  assert lines[-2].startswith("==> [4/4] evaluate: done in")

  # One by one where an accelerator takes one run at a time.
  for other in ({"SCM_DEVICE": "cuda12"}, {"CORES": "1"}):
    log.unlink()
    assert (
      bash(repo / "launch" / "local.sh", env=several | other).returncode == 0
    )
    assert log.read_text().splitlines()[1:] == [teacher, *students, evaluate]


def test_a_student_that_fails_lets_the_other_one_finish(repo, bash, log):
  env = {**os.environ, "SCM_DEVICE": "cpu", "CORES": "2", "FAIL_ON": "run=scd"}
  result = bash(repo / "launch" / "local.sh", env=env)
  assert result.returncode == 3
  assert "evaluate" not in log.read_text()
  assert "scd: ==> [2/4] train scd, seed 0: stopped with exit code 3" in (
    result.stdout
  )
  assert "sct: ==> [3/4] train sct, seed 0: done in" in result.stdout


@pytest.mark.parametrize(
  ("given", "expected"), [(None, "{root}/.cache/jax"), ("/mine", "/mine")]
)
def test_the_compilation_cache(repo, bash, log, given, expected):
  env = {k: v for k, v in os.environ.items() if k[:8] != "JAX_COMP"}
  if given:
    env["JAX_COMPILATION_CACHE_DIR"] = given
  assert bash(repo / "launch" / "local.sh", env=env).returncode == 0
  found = (repo / "cache").read_text().strip()
  assert found == expected.format(root=repo)


def test_flags_of_xla_are_for_cpus_and_those_of_the_user_stay(
  repo, bash, log, program
):
  script, flags = repo / "launch" / "local.sh", repo / "flags"

  def used(script, *args, **given):
    flags.unlink(missing_ok=True)
    env = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"} | given
    result = bash(script, *args, env=env, cwd=repo)
    assert result.returncode == 0, result.stderr
    lines = set(flags.read_text().splitlines()) if flags.exists() else set()
    return result.stdout, lines

  _, [found] = used(script, SCM_DEVICE="cpu")
  assert found.startswith("--xla")
  assert used(script, "--devices=2")[1] == {found}
  assert used(script, SCM_DEVICE="cpu", XLA_FLAGS="--mine")[1] == {"--mine"}
  assert used(script, SCM_DEVICE="cuda12")[1] == {""}
  printed, _ = used(script, "--dry-run", SCM_DEVICE="cpu")
  program(repo / "printed", f"PATH='{repo}'/.venv/bin:$PATH\n{printed}")
  assert used(repo / "printed")[1] == {found}


@pytest.mark.parametrize(
  ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)]
)
@pytest.mark.parametrize(
  ("wait_on", "waiting", "before"),
  [("run=teacher", 1, "teacher"), ("run=s", 2, "scd sct")],
)
def test_a_signal_lets_trainings_save_and_starts_nothing_more(
  repo, log, wait_on, waiting, before, number, code
):
  env = {"WAIT_ON": wait_on, "SCM_DEVICE": "cpu", "CORES": "2"}
  process = subprocess.Popen(
    [str(repo / "launch" / "local.sh")],
    env={**os.environ, **env},
    stdout=subprocess.PIPE,
    text=True,
    # A job in the background, as these tests may be, ignores Ctrl-C.
    preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
  )
  deadline = time.monotonic() + 300
  while time.monotonic() < deadline and process.poll() is None:
    if (repo / "waiting").exists() and (
      len((repo / "waiting").read_text().splitlines()) == waiting
    ):
      break
    time.sleep(0.05)
  process.send_signal(number)
  out, _ = process.communicate(timeout=300)
  assert process.returncode == code
  lines = log.read_text().splitlines()
  assert lines[-waiting:] == ["saved"] * waiting
  assert not any(line.startswith("evaluate") for line in lines)
  for run in before.split():
    assert f"train {run}, seed 0: stopped with exit code {code}" in out
