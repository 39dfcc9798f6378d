"""Several processes as one run: detection, start, stop, death, resumption."""

import contextlib
import os
import re
import signal
import socket
import threading
from concurrent import futures

import numpy as np
import pytest
from jax._src.clusters import cloud_tpu_cluster

from scm_jax.errors import ConfigError, UserError
from scm_jax.training.ema import snapshots
from scm_jax.training.processes import cluster, peers
from scm_jax.training.processes.cluster import Cluster

STEPS = 60  # of the long reference run
PATIENCE = 900  # seconds to wait for a process before a test fails


# Detection.

VARIABLES = re.compile("SCM_|SLURM_|OMPI_|TPU_|MEGASCALE_|CUDA_VIS|JAX_COORD")


@pytest.fixture
def detect(monkeypatch):
  """Returns `detect(environment)`, which sets these variables alone."""

  def run(environment, timeout=10):
    with monkeypatch.context() as patch:
      for name in filter(VARIABLES.match, list(os.environ)):
        patch.delenv(name)
      for name, value in environment.items():
        patch.setenv(name, value)
      return cluster.detect(timeout)

  return run


def plain(coordinator="host:1", count="2", index="0"):
  values = coordinator, count, index
  return dict(zip(cluster.PLAIN, values, strict=True))


SLURM = {
  "SLURM_JOB_ID": "8193",
  "SLURM_STEP_NODELIST": "gpu[003-007,9],cpu1",
  "SLURM_NTASKS": "6",
  "SLURM_PROCID": "4",
  "SLURM_LOCALID": "1",
  "SLURM_STEP_NUM_NODES": "6",
}
OPEN_MPI = {
  "OMPI_MCA_orte_hnp_uri": "4096.0;tcp://10.0.0.1,10.1.0.1:34911",
  "OMPI_COMM_WORLD_SIZE": "4",
  "OMPI_COMM_WORLD_RANK": "3",
  "OMPI_COMM_WORLD_LOCAL_RANK": "1",
  "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
}
GPUS = {"CUDA_VISIBLE_DEVICES": "0,1"}


@pytest.mark.parametrize(
  "environment, expected",
  [
    ({}, None),
    (plain(), Cluster("host:1", 2, 0)),
    (plain("[::1]:99", "8", "7"), Cluster("[::1]:99", 8, 7)),
    (plain(count="1"), None),
    (SLURM | plain(), Cluster("host:1", 2, 0)),
    (SLURM | {"SLURM_NTASKS": "1"}, None),
    # One task a node, which uses all GPUs that it sees.
    (SLURM | GPUS, Cluster("gpu003:61441", 6, 4)),
    # Two tasks a node that see all of its GPUs, and that see one each.
    (
      SLURM | GPUS | {"SLURM_STEP_NUM_NODES": "3"},
      Cluster("gpu003:61441", 6, 4, 1),
    ),
    (
      SLURM | {"SLURM_STEP_NUM_NODES": "3", "CUDA_VISIBLE_DEVICES": "1"},
      Cluster("gpu003:61441", 6, 4),
    ),
    (OPEN_MPI, Cluster("10.0.0.1:61441", 4, 3)),
    (OPEN_MPI | GPUS, Cluster("10.0.0.1:61441", 4, 3, 1)),
    (
      OPEN_MPI | GPUS | {"OMPI_COMM_WORLD_LOCAL_SIZE": "1"},
      Cluster("10.0.0.1:61441", 4, 3),
    ),
  ],
)
def test_detects(environment, expected, detect):
  assert detect(environment) == expected


SLICES = {
  "MEGASCALE_NUM_SLICES": "2",
  "MEGASCALE_SLICE_ID": "1",
  "MEGASCALE_COORDINATOR_ADDRESS": "localhost:8080",
}


@pytest.fixture
def metadata(monkeypatch):
  """Pretends to be a TPU machine; returns its metadata, which tests fill."""
  values = {}
  answer = lambda key: (values.get(key, ""), 200 if key in values else 404)
  monkeypatch.setattr(cloud_tpu_cluster, "get_metadata", answer)
  monkeypatch.setattr(cloud_tpu_cluster, "running_in_cloud_tpu_vm", True)
  return values


def test_detects_tpus_on_gke(detect, metadata):
  hosts = {"TPU_WORKER_HOSTNAMES": "localhost,b,c,d", "TPU_WORKER_ID": "3"}
  address = f"localhost:{cloud_tpu_cluster.coordinator_port}"
  assert detect(hosts) == Cluster(address, 4, 3)
  assert detect(hosts | SLICES) == Cluster(address, 8, 7)
  assert detect({"TPU_WORKER_HOSTNAMES": "localhost"}) is None


def test_detects_a_tpu_vm(detect, metadata, monkeypatch):
  assert detect({}) is None
  metadata["agent-worker-number"] = "1"
  metadata["worker-network-endpoints"] = "x:y:127.0.0.1,x:z:127.0.0.2"
  address = f"127.0.0.1:{cloud_tpu_cluster.coordinator_port}"
  assert detect({}) == Cluster(address, 2, 1)
  with pytest.raises(UserError, match="cannot find process 0 .* 127.0.0.1;"):
    detect({}, timeout=0)

  def offline(key):
    raise OSError("no metadata server")

  monkeypatch.setattr(cloud_tpu_cluster, "get_metadata", offline)
  assert detect({}) is None


@pytest.mark.parametrize(
  "environment, said",
  [
    ({"SCM_PROCESS_ID": "0"}, "SCM_COORDINATOR and SCM_NUM_PROCESSES is not"),
    (plain(count="two"), "not host:1, two and 0"),
    (plain(index="2"), "not host:1, 2 and 2"),
    (plain("host"), "must be host:port"),
    (plain("host:99999"), "must be host:port"),
  ],
)
def test_contradictions(environment, said, detect):
  with pytest.raises(ConfigError, match=said):
    detect(environment)


# Connections between processes.


@pytest.fixture
def gather(free_port):
  """Returns `gather(indices, count)`, which connects these processes.

  It returns the connections, or the error, of each of them by its index.
  """

  def run(indices, count, patience=PATIENCE):
    coordinator, results = f"localhost:{free_port()}", {}

    def call(index):
      try:
        here = Cluster(coordinator, count, index)
        results[index] = peers.PeerConnections(here, patience, 100)
      except UserError as error:
        results[index] = str(error)

    threads = [threading.Thread(target=call, args=(i,)) for i in indices]
    for thread in threads:
      thread.start()
    for thread in threads:
      thread.join()
    return results

  return run


def test_all_name_the_missing_processes(gather):
  results = gather((2, 0), count=4, patience=1)
  for index in (0, 2):
    assert results[index].startswith(f"process {index} of 4: process 1,3 did")


def test_a_missing_coordinator_is_named(gather):
  [(_, error)] = gather((1,), count=2, patience=1).items()
  assert "process 1 of 2: process 0 did not come up at localhost:" in error


@pytest.mark.slow
def test_a_stray_connection_is_ignored(free_port):
  port = free_port()
  here = Cluster(f"localhost:{port}", 2, 0)
  with futures.ThreadPoolExecutor() as pool:
    waiting = pool.submit(peers.PeerConnections, here, 3, 100)
    for words in (b"\xff\n", "\N{SUPERSCRIPT TWO}\n".encode(), b"7\n"):
      stray = None
      while stray is None:
        with contextlib.suppress(ConnectionRefusedError):
          stray = socket.create_connection(("localhost", port))
      stray.sendall(words)
    with pytest.raises(UserError, match="process 0 of 2: process 1 did not"):
      waiting.result()


def test_all_learn_who_died_but_not_who_left(gather):
  results = gather(range(4), count=4)
  lost = {index: [] for index in results}
  seen = threading.Semaphore(0)

  def told(index):
    def on_lost(other):
      lost[index].append(other)
      seen.release()

    return on_lost

  for index, connections in results.items():
    connections.watch(told(index))
  results[1].leave()
  results[1]._sockets[0].shutdown(socket.SHUT_RDWR)
  results[2]._sockets[0].shutdown(socket.SHUT_RDWR)  # like a killed process
  for _ in range(3):
    assert seen.acquire(timeout=PATIENCE)
  assert lost[0] == [2] and lost[3] == [2]
  assert lost[1] == []  # process 1 has left


# Two processes that train.


@pytest.mark.slow
def test_two_processes_stop_die_and_go_on_as_one(
  pair,
  start,
  wait_until,
  flags,
  long_reference,
  steps_kept,
  state_at,
  read_metrics,
  tmp_path,
):
  """The result is that of one uninterrupted process, to float32 rounding."""
  folder = tmp_path / "run"
  argv = ["train", f"--workdir={folder}"]
  argv += flags("teacher", f"--config.total_steps={STEPS}")

  def lines():
    written = (folder / "metrics.jsonl").exists()
    return len(read_metrics(folder)) if written else 0

  # Ctrl-C for one of them, which becomes a SIGTERM: both save the same step and
  # exit with 0.
  processes = pair(*argv)
  wait_until(lambda: lines() >= 3, processes)
  processes[1].send_signal(signal.SIGINT)
  assert [process.wait(PATIENCE) for process in processes] == [0, 0]
  logs = [process.log.read_text() for process in processes]
  stopped = steps_kept(folder)[-1]
  assert stopped < STEPS
  assert f"stopped by a signal; {folder} is saved at step {stopped}" in logs[0]
  assert "step 2 of" in logs[0] and "step 2 of" not in logs[1]

  # One of them is killed: the other ends soon and names it.
  processes = pair(*argv)
  before = lines()
  wait_until(lambda: lines() >= before + 2, processes)
  processes[1].send_signal(signal.SIGKILL)
  assert processes[0].wait(60) == 1
  log = processes[0].log.read_text()
  assert f"continuing from step {stopped}" in log
  assert "scm-jax train: process 0 of 2: lost process 1" in log
  assert "Traceback" not in log and "Fatal" not in log
  assert steps_kept(folder)[-1] < STEPS

  # A single process goes on from there, to the same result.
  process = start(*argv)
  assert process.wait(PATIENCE) == 0, process.log.read_text()[-2000:]
  assert steps_kept(folder)[-1] == STEPS
  mine = {line["step"]: line for line in read_metrics(folder)}
  for line in read_metrics(long_reference):
    if line["step"] == stopped + stopped % 2:
      continue  # the stop cut this window in two
    assert mine[line["step"]]["loss"] == pytest.approx(line["loss"], rel=1e-4)
  a, b = state_at(folder, STEPS), state_at(long_reference, STEPS)
  assert a.keys() == b.keys()
  for name in a:
    if "['params']" in name:
      np.testing.assert_allclose(a[name], b[name], atol=1e-3)


@pytest.mark.slow
def test_checkpoints_and_snapshots_of_one_step(pair, flags, tmp_path):
  """Two savers wait for the other process at once, each for its own part."""
  more = "checkpoint_every=2 snapshot_every=2 total_steps=24 sample.num=0"
  argv = ["train", f"--workdir={tmp_path}/run"]
  argv += flags("teacher", *(f"--config.{word}" for word in more.split()))
  for process in pair(*argv):
    assert process.wait(PATIENCE) == 0, process.log.read_text()[-2000:]
  steps = snapshots.steps(tmp_path / "run")
  assert steps == list(range(2, 25, 2))


LIMITED = """
import os, resource, sys
from scm_jax.cli import main
index, size = sys.argv.pop(1), int(sys.argv.pop(1))
if os.environ["SCM_PROCESS_ID"] == index:
  limit = (size, resource.getrlimit(resource.RLIMIT_FSIZE)[1])
  resource.setrlimit(resource.RLIMIT_FSIZE, limit)
sys.exit(main.main(sys.argv[1:]))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
  "kind, index, size",
  [("checkpoint", 0, 40_000), ("checkpoint", 1, 40_000), ("snapshot", 1, 5000)],
)
def test_a_write_that_fails_on_one_process_ends_both(
  pair, flags, tmp_path, kind, index, size
):
  folder = tmp_path / "run"
  every = {"checkpoint_every": 100, "snapshot_every": 100, f"{kind}_every": 2}
  argv = [f"--config.{name}={number}" for name, number in every.items()]
  argv = ["train", f"--workdir={folder}", *flags("teacher", *argv)]
  argv.append("--config.total_steps=100000")
  processes = pair(index, size, *argv, prefix=("-c", LIMITED))
  assert [process.wait(PATIENCE) for process in processes] == [1, 1]
  logs = [process.log.read_text() for process in processes]
  assert f"process {index} of 2: saving the {kind} of step " in logs[index]
  assert "(File too large)" in logs[index].splitlines()[-1]
  assert f"lost process {index}" in logs[1 - index]


APART = """
import os, sys
from scm_jax.cli import main
index = os.environ["SCM_PROCESS_ID"]
sys.exit(main.main([word.replace("INDEX", index) for word in sys.argv[1:]]))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
  "apart, code, said",
  [
    ("--workdir={}/INDEX", 1, "process 1 does not see the folder"),
    ("--config.seed=INDEX", 2, "process 1 has another config than process 0"),
    ("--config.total_steps=2INDEX", 2, "process 1 has another config"),
  ],
)
def test_processes_that_were_not_started_alike_are_refused(
  pair, flags, tmp_path, apart, code, said
):
  argv = ["train", f"--workdir={tmp_path}/run", *flags()]
  name, _, _ = apart.partition("=")
  argv = [word for word in argv if not word.startswith(f"{name}=")]
  argv.append(apart.format(tmp_path))
  processes = pair(*argv, prefix=("-c", APART))
  assert [process.wait(PATIENCE) for process in processes] == [code, code]
  for process in processes:
    assert said in process.log.read_text()
  assert not list(tmp_path.glob("*/.config-of*"))


@pytest.mark.slow
def test_a_process_alone_says_who_is_missing(
  start, flags, free_port, monkeypatch, tmp_path
):
  monkeypatch.setenv("SCM_INIT_TIMEOUT", "1")
  values = plain(f"localhost:{free_port()}")
  for name, value in values.items():
    monkeypatch.setenv(name, value)
  process = start("train", f"--workdir={tmp_path / 'run'}", *flags())
  assert process.wait(PATIENCE) == 1
  [line] = process.log.read_text().splitlines()
  assert "process 0 of 2: process 1 did not come up within 1 s" in line
  assert not os.path.exists(tmp_path / "run")
