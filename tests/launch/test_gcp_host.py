"""The scripts on Google's machines: launch/gcp/boot.sh and host.sh.

The bucket is a folder; uv, curl and the training are stubs.
"""

import os
import pathlib
import shutil
import signal
import subprocess
import time

import pytest

LAUNCH = pathlib.Path(__file__).parents[2] / "launch" / "gcp"

# `storage cp A... B` and `storage cat A`, with gs:// for the folder $BUCKET.
GCLOUD = """
shift
args=("${@//gs:\\/\\//$BUCKET/}")
verb=${args[0]} last=${args[-1]}
case $verb in
  cat) cat ${args[1]} ;;
  cp)
    mkdir -p "$(dirname "$last")"
    if [[ ${args[1]} == - ]]; then cat > "$last"; exit; fi
    mkdir -p "$last"
    for file in "${args[@]:1:${#args[@]}-2}"; do
      cp $file "$last" || exit 1
    done ;;
esac
"""
UV = """
echo "uv $*" >> "$BUCKET/calls"
if [[ $1 == venv ]]; then
  mkdir -p venv/bin && cp "$BUCKET/training" venv/bin/scm-jax
  cp "$BUCKET/training" venv/bin/python
fi
"""
# Does at the n-th start what the n-th line of $BUCKET/script says.
TRAINING = """
echo "$*" >> "$BUCKET/starts"
env | grep ^SCM_ >> "$BUCKET/env"
n=$(wc -l < "$BUCKET/starts")
eval "$(sed -n "${n}p" "$BUCKET/script")"
"""
DONE = "echo 'I loop.py:99] gs://b/run is complete, at step 9'"


@pytest.fixture
def host(tmp_path, program):
  """Returns `host(*script, ...)`: host.sh with a scripted training."""
  bucket, home = tmp_path / "bucket", tmp_path / "home"
  launch = bucket / "b" / "run" / "launch"
  launch.mkdir(parents=True)
  home.mkdir()
  (tmp_path / "bin").mkdir()
  program(tmp_path / "bin" / "gcloud", GCLOUD)
  program(tmp_path / "bin" / "uv", UV)
  program(bucket / "training", TRAINING)
  (launch / "scm_jax-1-py3-none-any.whl").write_text("")
  (tmp_path / "configs").mkdir()
  (tmp_path / "configs" / "x.py").write_text("")
  archive = launch / "configs.tar.gz"
  subprocess.run(["tar", "-czf", archive, "-C", tmp_path, "configs"])
  shutil.copy(LAUNCH / "host.sh", home)

  def start(*script, family="tpu", hosts=1, **env) -> subprocess.Popen[str]:
    (bucket / "script").write_text("\n".join(script) + "\n")
    (home / "job.env").write_text(
      f"NAME=scm-a WORKDIR=gs://b/run FAMILY={family} HOSTS={hosts}\n"
      "CONFIG=configs/x.py:tiny OVERRIDES=(--config.seed=3)\n"
      "PINS=(jax==0.10.2)\n"
    )
    return subprocess.Popen(
      ["bash", str(home / "host.sh")],
      env={
        **os.environ,
        "PATH": f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "SCM_HOME": str(home),
        "SCM_RETRY_SECONDS": "0",
        "SCM_LOG_SECONDS": "0.1",
        "BUCKET": str(bucket),
        "HOSTNAME": "t1v-n-0-w-3",
        **env,
      },
      stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT,
      text=True,
    )

  start.bucket, start.launch = bucket, launch
  return start


def finish(process) -> tuple[int, str]:
  out, _ = process.communicate(timeout=300)
  return process.returncode, out


def starts(host) -> int:
  return len((host.bucket / "starts").read_text().splitlines())


def state(host) -> str:
  return (host.launch / "state" / "scm-a-3").read_text().strip()


def test_it_installs_trains_and_says_that_it_is_complete(host):
  code, out = finish(host(DONE))
  assert code == 0, out
  installed = (host.bucket / "calls").read_text().split()
  assert {"jax[tpu]", "jax==0.10.2"} <= set(installed)
  assert "./code/scm_jax-1-py3-none-any.whl[train]" in installed
  assert (host.bucket / "starts").read_text() == (
    "train --config=configs/x.py:tiny --workdir=gs://b/run --config.seed=3\n"
  )
  assert state(host) == "scm-a-3 complete"
  kept = host.launch / "logs" / "scm-a-3.log"
  assert "is complete, at step 9" in kept.read_text()
  assert "is complete, at step 9" in out


def test_a_crash_and_a_peers_preemption_start_it_again(host):
  # 0 without "is complete": the processes saved, for one was preempted.
  code, out = finish(host("exit 1", "exit 0", "kill -9 $$", DONE))
  assert (code, starts(host)) == (0, 4), out
  assert "starting again after exit code 137" in out


@pytest.mark.parametrize(
  ("script", "count", "said"),
  [
    (["echo 'scm-jax train: no field x'; exit 2"], 1, "no field x"),
    (["echo 'diverged by step 7: loss nan'; exit 1"], 1, "diverged by step 7"),
    (["echo oh; exit 1"] * 9, 6, "failed with exit code 1: oh"),
  ],
)
def test_a_hopeless_training_is_not_started_for_ever(host, script, count, said):
  code, out = finish(host(*script))
  assert (code, starts(host)) == (70, count), out
  assert "scm-a-3 failed with exit code" in state(host) and said in state(host)


@pytest.mark.parametrize(("times", "code"), [(2, 0), (99, 70)])
def test_an_installation_that_fails_is_tried_again_and_reported(
  host, program, tmp_path, times, code
):
  """Else the machines would idle for ever, and gcp.sh run would watch them."""
  fail = f"""
if [[ $1 == pip ]] && (($(grep -c "^uv pip" "$BUCKET/calls") <= {times})); then
  echo "error: no solution" >&2; exit 2
fi"""
  program(tmp_path / "bin" / "uv", UV + fail)
  assert finish(host(DONE))[0] == code
  assert ("complete" if code == 0 else "code 1: error: no solu") in state(host)


def test_an_installation_does_not_go_on_after_an_error(host, program, tmp_path):
  """It would end well without its configs, and the training would not."""
  once = '[[ -e $BUCKET/tried ]] || { touch "$BUCKET/tried"; exit 1; }'
  program(tmp_path / "bin" / "tar", f'{once}\nPATH=${{PATH#*:}} exec tar "$@"')
  code, out = finish(host(DONE))
  assert code == 0, out
  assert (tmp_path / "home/configs/x.py").exists()


def test_a_host_without_a_log_learns_of_the_end_from_the_others(host):
  other = host.launch / "state" / "scm-a-0"
  other.parent.mkdir()
  other.write_text("scm-a-0 complete\n")
  code, out = finish(host("exit 0", hosts=4))
  assert (code, starts(host)) == (0, 1), out
  assert state(host) == "scm-a-3 complete"


def test_sigterm_lets_the_training_save_and_is_not_the_end(host):
  saving = (
    'trap "echo saved; exit 0" TERM; touch "$BUCKET/running"; '
    "for i in {1..300}; do sleep 0.1; done"
  )
  process = host(saving)
  deadline = time.monotonic() + 300
  while not (host.bucket / "running").exists() and time.monotonic() < deadline:
    time.sleep(0.05)
  process.send_signal(signal.SIGTERM)
  code, out = finish(process)
  assert (code, starts(host)) == (75, 1), out
  assert "saved" in out and state(host) == "scm-a-3 stopped"


def test_gpu_hosts_are_told_of_each_other(host, program, tmp_path):
  # Stands for the test of the other hosts' port 22: one comes up late.
  program(
    tmp_path / "bin" / "timeout",
    'echo "$4" >> "$BUCKET/waits"; (($(wc -l < "$BUCKET/waits") > 2))',
  )
  code, out = finish(
    host(DONE, family="gpu", hosts=2, HOSTNAME="scm-a-1", SCM_COORDINATOR="")
  )
  assert code == 0, out
  told = (host.bucket / "env").read_text().splitlines()
  assert {
    "SCM_COORDINATOR=scm-a-0:8476",
    "SCM_NUM_PROCESSES=2",
    "SCM_PROCESS_ID=1",
  } <= set(told)
  assert "waiting for scm-a-0" in out
  assert "jax[cuda12]" in (host.bucket / "calls").read_text()


def test_what_kubernetes_says_stands(host):
  code, out = finish(
    host(
      DONE,
      family="gpu",
      hosts=2,
      SCM_COORDINATOR="pod:1",
      SCM_PROCESS_ID="0",
      JOB_COMPLETION_INDEX="3",
      HOSTNAME="pod-x7k",
    )
  )
  assert code == 0, out
  told = (host.bucket / "env").read_text()
  assert "SCM_COORDINATOR=pod:1\n" in told and "SCM_PROCESS_ID=0\n" in told
  assert state(host) == "scm-a-3 complete"


def test_the_start_up_script(host, program, tmp_path):
  """It tries until the bucket answers, and starts one unit only."""
  text = (LAUNCH / "boot.sh").read_text().replace("/opt/scm_jax", "$SCM_HOME")
  program(tmp_path / "boot", f"LAUNCH=gs://b/run/launch\n{text}")
  program(tmp_path / "bin" / "sleep", 'cp "$SOURCE" "$BUCKET/b/run/launch/"')
  program(tmp_path / "bin" / "systemd-run", 'echo "$*" >> "$BUCKET/units"')
  program(tmp_path / "bin" / "systemctl", '[[ -e "$BUCKET/units" ]]')
  (host.launch / "job.env").write_text("")
  env = {
    **os.environ,
    "PATH": f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}",
    "BUCKET": str(host.bucket),
    "SCM_HOME": str(tmp_path / "opt"),
    "SOURCE": str(LAUNCH / "host.sh"),
  }
  for _ in range(2):
    subprocess.run([tmp_path / "boot"], env=env, check=True, timeout=300)
  assert {p.name for p in (tmp_path / "opt").iterdir()} == {
    "boot.sh",
    "host.sh",
    "job.env",
  }
  (unit,) = (host.bucket / "units").read_text().splitlines()
  assert unit.startswith("--unit=scm-jax --collect")
  assert unit.endswith(f"bash {tmp_path}/opt/host.sh")
