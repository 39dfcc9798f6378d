"""launch/slurm.sh on a real Slurm: two nodes on this machine.

Needs Debian's packages slurm-wlm and munge; skipped where they are not.
"""

import getpass
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

NEEDED = ("slurmctld", "slurmd", "munged", "sbatch", "srun", "scontrol")
PATH = os.pathsep.join((os.environ["PATH"], "/usr/sbin", "/sbin"))
MISSING = [name for name in NEEDED if not shutil.which(name, path=PATH)]
pytestmark = [
  pytest.mark.slow,
  pytest.mark.skipif(
    bool(MISSING), reason=f"no Slurm here (Debian: slurm-wlm, munge): {MISSING}"
  ),
]
REPOSITORY = pathlib.Path(__file__).parents[2]

CONFIG = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={root}/munge/socket,cred_expire=5
CredType=cred/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SchedulerParameters=sched_interval=1,sched_min_interval=0,bf_interval=1
StateSaveLocation={root}/state
SlurmdSpoolDir={root}/%n
SlurmctldPidFile={root}/slurmctld.pid
SlurmdPidFile={root}/%n.pid
SlurmctldLogFile={root}/slurmctld.log
SlurmdLogFile={root}/%n.log
SlurmdParameters=config_overrides
ReturnToService=2
KillWait=2
MinJobAge=3000
JobRequeue=1
AccountingStorageType=accounting_storage/none
GresTypes=gpu
NodeName=node1 NodeAddr=127.0.0.1 Port={ports[0]} \
CPUs=2 RealMemory=500 Gres=gpu:2 State=UNKNOWN
NodeName=node2 NodeAddr=127.0.0.2 Port={ports[1]} \
CPUs=2 RealMemory=500 Gres=gpu:2 State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=60 State=UP OverSubscribe=YES
"""


def free_ports(count: int) -> list[int]:
  sockets = [socket.socket() for _ in range(count)]
  for one in sockets:
    one.bind(("127.0.0.1", 0))
  ports = [one.getsockname()[1] for one in sockets]
  for one in sockets:
    one.close()
  return ports


class Cluster:
  """A Slurm of this test's own; its programs read `env`."""

  def __init__(self, root: pathlib.Path):
    self.root = root
    # The launcher's own flags are looked at, not those of the tests.
    env = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    self.env = {**env, "PATH": PATH, "SLURM_CONF": f"{root}/slurm.conf"}
    self.processes: list[subprocess.Popen] = []

  def start(self) -> None:
    root = self.root
    (root / "munge").mkdir(mode=0o700)
    (root / "state").mkdir()
    key = root / "munge" / "key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o600)
    names = ("socket", "pid-file", "log-file", "seed-file")
    files = [f"--{name}={root}/munge/{name[:6]}" for name in names]
    # --force: the parents of a test's folder are everybody's.
    self._run("munged", "--foreground", "--force", f"--key-file={key}", *files)
    self._wait(lambda: (root / "munge" / "socket").exists(), "munged")
    controller, *ports = free_ports(3)
    text = CONFIG.format(
      root=root,
      host=socket.gethostname().partition(".")[0],
      user=getpass.getuser(),
      controller=controller,
      ports=ports,
    )
    (root / "slurm.conf").write_text(text)
    # Slurm only looks whether these are there, and counts them.
    devices = "AutoDetect=off\nName=gpu File=/dev/null\nName=gpu File=/dev/zero"
    (root / "gres.conf").write_text(f"{devices}\n")
    self._run("slurmctld", "-D")
    for node in ("node1", "node2"):
      self._run("slurmd", "-D", "-N", node)
    self._wait(lambda: self.ask("sinfo", "-ho", "%t %D") == "idle 2", "nodes")

  def _run(self, *command: str) -> None:
    log = (self.root / f"{command[0]}.out").open("a")
    process = subprocess.Popen(
      command, env=self.env, stdout=log, stderr=subprocess.STDOUT
    )
    self.processes.append(process)

  def _wait(self, condition, what: str, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
      dead = any(process.poll() is not None for process in self.processes)
      if dead or time.monotonic() > deadline:
        logs = "".join(p.read_text() for p in self.root.glob("*.out"))
        pytest.fail(f"{what} did not come in {seconds} s\n{logs[-3000:]}")
      time.sleep(0.2)

  def ask(self, *command: str) -> str:
    result = subprocess.run(
      command, env=self.env, capture_output=True, text=True, timeout=60
    )
    return result.stdout.strip()

  def job(self, number: str) -> dict[str, str]:
    words = self.ask("scontrol", "show", "job", number, "--oneliner").split()
    return dict(word.split("=", 1) for word in words if "=" in word)

  def wait_for(self, number: str, *states: str, seconds: float = 90) -> None:
    self._wait(
      lambda: self.job(number).get("JobState") in states,
      f"job {number}: {states}",
      seconds,
    )

  def stop(self) -> None:
    for process in reversed(self.processes):
      process.terminate()
    for process in self.processes:
      try:
        process.wait(20)
      except subprocess.TimeoutExpired:
        process.kill()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
  cluster = Cluster(tmp_path_factory.mktemp("slurm"))
  try:
    cluster.start()
    yield cluster
  finally:
    cluster.stop()


# Saves on SIGTERM and is complete at its third start; says who it is.
TRAINING = """
echo "rank $SLURM_PROCID of $SLURM_NTASKS on $SLURMD_NODENAME: $*"
echo "gpus $SLURM_GPUS_ON_NODE xla $XLA_FLAGS"
done=$(cat "{root}/done")
trap 'echo saved; exit 0' TERM
touch "{root}/up.$SLURM_RESTART_COUNT.$SLURM_PROCID"
for i in {{1..600}}; do
  if [[ -e "{root}/finish" ]]; then
    [[ $SLURM_PROCID != 0 ]] || echo "run is complete, at step 9"
    exit 0
  fi
  # Only once the other is up, whose trap turns Slurm's SIGTERM into code 0.
  if [[ -e "{root}/fail" && $SLURM_PROCID == 1 && -e "{root}/up..0" ]]; then
    exit 3
  fi
  sleep 0.1
done
"""


@pytest.fixture
def submit(repo, program, bash, cluster):
  """Submits launch/slurm.sh with a stand-in training; the job's number."""
  program(repo / "launch" / "setup.sh", "true")
  (repo / "done").write_text("")
  program(repo / ".venv" / "bin" / "scm-jax", TRAINING.format(root=repo))
  program(repo / ".venv" / "bin" / "python", "true")
  numbers = []

  def run(*flags: str) -> tuple[str, pathlib.Path]:
    result = bash(
      repo / "launch" / "slurm.sh",
      "--config=configs/digits.py:tiny",
      f"--workdir={repo}/runs/a",
      *flags,
      cwd=repo,
      env=cluster.env,
    )
    assert result.returncode == 0, result.stderr
    number = result.stdout.split()[2].rstrip(";")
    numbers.append(number)
    return number, repo / "runs" / "slurm" / f"scm-a-{number}.log"

  yield run
  for number in numbers:
    cluster.ask("scancel", number)


def test_two_nodes_save_ahead_of_the_limit_and_go_on(repo, cluster, submit):
  number, log = submit("--nodes=2", "--gpus-per-node=1", "--time=10")
  for attempt in ("", "1"):
    for rank in range(2):
      up = repo / f"up.{attempt}.{rank}"
      cluster._wait(up.exists, up.name)
    if not attempt:
      # What Slurm sends ahead of the time limit.
      cluster.ask("scancel", "--batch", "--signal=USR1", number)
  (repo / "finish").touch()
  cluster.wait_for(number, "COMPLETED")
  assert cluster.job(number)["Restarts"] == "1"
  text = log.read_text()
  for rank, node in enumerate(("node1", "node2")):
    said = f"rank {rank} of 2 on {node}: train --config={repo}/configs/digits"
    assert text.count(said) == 2, text
  assert text.count("saved") == 2
  assert text.count("gpus 1 xla --xla_gpu_enable_latency_hiding") == 4
  assert "attempt 1 on node[1-2]" in text
  assert "back into the queue" in text and "attempt 2 on" in text
  assert text.rstrip().endswith("complete")


def test_a_preempted_job_goes_on(repo, cluster, submit):
  number, log = submit("--gpus-per-node=0")
  cluster._wait((repo / "up..0").exists, "the first attempt")
  cluster.ask("scontrol", "requeue", number)  # as preemption does
  cluster._wait((repo / "up.1.0").exists, "the second attempt")
  (repo / "finish").touch()
  cluster.wait_for(number, "COMPLETED")
  text = log.read_text()
  assert "saved" in text and "attempt 2 on node1" in text
  assert "back into the queue" not in text


def test_a_cancelled_job_stays_cancelled(repo, cluster, submit):
  number, log = submit("--gpus-per-node=0")
  cluster._wait((repo / "up..0").exists, "the attempt")
  cluster.ask("scancel", number)
  cluster.wait_for(number, "CANCELLED")
  assert cluster.job(number)["Restarts"] == "0"
  assert "saved" in log.read_text()


def test_a_failure_ends_all_processes_and_the_job(repo, cluster, submit):
  (repo / "fail").touch()
  number, log = submit("--nodes=2", "--gpus-per-node=0")
  cluster.wait_for(number, "FAILED")
  assert cluster.job(number)["ExitCode"] == "3:0"
  assert "failed with exit code 3; the same command continues" in (
    log.read_text()
  )


def test_the_processes_find_each_other(repo, program, cluster, submit):
  code = (
    "from scm_jax.training.processes import cluster;"
    " print('is', *cluster.detect()); import jax;"
    " jax.config.update('jax_cpu_collectives_implementation', 'gloo');"
    " jax.distributed.initialize(); from jax.experimental import"
    " multihost_utils as m; n = jax.process_index();"
    " print('gathered', m.process_allgather(jax.numpy.array([n])).tolist());"
    " print('this is complete, at step 0')"
  )
  (address,) = free_ports(1)
  program(
    repo / ".venv" / "bin" / "scm-jax",
    # Where node1 is, which only Slurm knows here.
    f'JAX_COORDINATOR_ADDRESS=127.0.0.1:{address} exec "{sys.executable}"'
    f' -c "{code}"',
  )
  cluster.env["JAX_PLATFORMS"] = "cpu"
  number, log = submit("--nodes=2", "--gpus-per-node=0")
  cluster.wait_for(number, "COMPLETED", "FAILED", seconds=200)
  text = log.read_text()
  assert "0: gathered [[0], [1]]" in text, text
  port = 61_440 + int(number)
  assert f"0: is node1:{port} 2 0 None" in text
  assert f"1: is node1:{port} 2 1 None" in text
  assert "1: gathered [[0], [1]]" in text


def test_a_real_training(
  repo, program, cluster, submit, data_dir, compilation_cache
):
  program(
    repo / ".venv" / "bin" / "scm-jax",
    f'cd "{REPOSITORY}" && exec "{sys.executable}" -m scm_jax "$@"',
  )
  shutil.copytree(REPOSITORY / "configs", repo / "configs", dirs_exist_ok=True)
  cluster.env.update(
    TFDS_DATA_DIR=data_dir, JAX_COMPILATION_CACHE_DIR=str(compilation_cache)
  )
  number, log = submit(
    "--gpus-per-node=0",
    "--config.network.channel_mult=(1,)",
    "--config.network.num_blocks=1",
    "--config.seed=1",
    "--config.total_steps=4",
  )
  cluster.wait_for(number, "COMPLETED", "FAILED", seconds=300)
  assert cluster.job(number)["JobState"] == "COMPLETED", log.read_text()
  assert log.read_text().rstrip().endswith("complete")
  assert (repo / "runs" / "a" / "config.json").exists()
