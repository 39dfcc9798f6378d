"""Several real processes: the roll call, stopping, dying and going on."""

import os
import signal
import socket
import threading

import numpy as np
import pytest

from scm_jax.errors import ConfigError, UserError
from scm_jax.training.processes import cluster, peers
from scm_jax.training.processes.cluster import Cluster

STEPS = 60  # of the long reference run
PATIENCE = 900  # seconds to wait for a process before a test fails


# Which processes make up a run.


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
GKE = {"TPU_WORKER_HOSTNAMES": "a,b,c,d", "TPU_WORKER_ID": "3"}
SLICES = {
  "MEGASCALE_NUM_SLICES": "2",
  "MEGASCALE_SLICE_ID": "1",
  "MEGASCALE_COORDINATOR_ADDRESS": "first:8080",
}


@pytest.mark.parametrize(
  "environment, expected",
  [
    ({}, None),
    (plain(), Cluster("host:1", 2, 0)),
    (plain("[::1]:99", "8", "7"), Cluster("[::1]:99", 8, 7)),
    (plain(count="1"), None),
    (SLURM, Cluster("gpu003:61441", 6, 4)),
    (SLURM | {"SLURM_NTASKS": "1"}, None),
    # Two tasks a node that see all of its GPUs, and that see one each.
    (
      SLURM | {"SLURM_STEP_NUM_NODES": "3", "CUDA_VISIBLE_DEVICES": "0,1"},
      Cluster("gpu003:61441", 6, 4, 1),
    ),
    (
      SLURM | {"SLURM_STEP_NUM_NODES": "3", "CUDA_VISIBLE_DEVICES": "1"},
      Cluster("gpu003:61441", 6, 4),
    ),
    (SLURM | plain(), Cluster("host:1", 2, 0)),
    (GKE, Cluster("a:8476", 4, 3)),
    (GKE | SLICES, Cluster("first:8476", 8, 7)),
    ({"TPU_WORKER_HOSTNAMES": "localhost"}, None),
  ],
)
def test_detects(environment, expected):
  assert cluster.detect(environment) == expected


@pytest.mark.parametrize(
  "endpoints", ["10.0.0.2,10.0.0.3", "x:y:10.0.0.2,x:z:10.0.0.3"]
)
def test_detects_a_tpu_vm(endpoints):
  attributes = {
    "worker-network-endpoints": endpoints,
    "agent-worker-number": "1",
    "tpu-env": "ZONE: 'a'\nMEGASCALE_NUM_SLICES: '1'\n",
  }
  ask = lambda name: attributes.get(name, "")
  assert cluster.detect({}, ask) == Cluster("10.0.0.2:8476", 2, 1)
  attributes["tpu-env"] = "\n".join(f"{k}: '{v}'" for k, v in SLICES.items())
  assert cluster.detect({}, ask) == Cluster("first:8476", 4, 3)
  attributes["worker-network-endpoints"] = ""
  assert cluster.detect({}, ask) is None


@pytest.mark.parametrize(
  "nodes, first",
  [
    ("node1", "node1"),
    ("node1,node2", "node1"),
    ("node[1-2]", "node1"),
    ("node[01,03-04],a", "node01"),
    ("a,node[1-2]", "a"),
  ],
)
def test_first_host(nodes, first):
  assert cluster.first_host(nodes) == first


@pytest.mark.parametrize(
  "environment, said",
  [
    ({"SCM_PROCESS_ID": "0"}, "SCM_COORDINATOR and SCM_NUM_PROCESSES is not"),
    (plain(count="two"), "not host:1, two and 0"),
    (plain(index="2"), "not host:1, 2 and 2"),
    (plain("host"), "must be host:port"),
  ],
)
def test_contradictions(environment, said):
  with pytest.raises(ConfigError, match=said):
    cluster.detect(environment)


# The roll call.


@pytest.fixture
def gather(free_port):
  """`gather(indices, count)`: what processes get, their lines or the error."""

  def run(indices, count, patience=PATIENCE):
    coordinator, results = f"localhost:{free_port()}", {}

    def call(index):
      try:
        here = Cluster(coordinator, count, index)
        results[index] = peers.Lines(here, patience, heartbeat=100)
      except UserError as error:
        results[index] = str(error)

    threads = [threading.Thread(target=call, args=(i,)) for i in indices]
    for thread in threads:
      thread.start()
    for thread in threads:
      thread.join()
    return results

  return run


def test_the_missing_are_named_by_all(gather):
  results = gather((2, 0), count=4, patience=1)
  for index in (0, 2):
    assert results[index].startswith(f"process {index} of 4: process 1,3 did")


def test_a_missing_coordinator_is_named(gather):
  [(_, error)] = gather((1,), count=2, patience=1).items()
  assert "process 1 of 2: process 0 did not come up at localhost:" in error


def test_who_dies_is_named_to_all_and_who_leaves_is_not(gather):
  results = gather(range(4), count=4)
  lost = {index: [] for index in results}
  seen = threading.Semaphore(0)

  def told(index):
    def on_lost(other):
      lost[index].append(other)
      seen.release()

    return on_lost

  for index, lines in results.items():
    lines.watch(told(index))
  results[1].leave()
  results[1]._sockets[0].shutdown(socket.SHUT_RDWR)
  results[2]._sockets[0].shutdown(socket.SHUT_RDWR)  # as a killed one's would
  for _ in range(3):
    assert seen.acquire(timeout=PATIENCE)
  assert lost[0] == [2] and lost[3] == [2]
  assert lost[1] == []  # has left


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
  """As a run of one process that is never interrupted, to f32 summation."""
  folder = tmp_path / "run"
  argv = ["train", f"--workdir={folder}"]
  argv += flags("teacher", f"--config.total_steps={STEPS}")
  lines = lambda: (
    len(read_metrics(folder)) if (folder / "metrics.jsonl").exists() else 0
  )

  # Told to stop, one of them: both save the same step and end well.
  processes = pair(*argv)
  wait_until(lambda: lines() >= 3, processes)
  processes[1].send_signal(signal.SIGTERM)
  assert [process.wait(PATIENCE) for process in processes] == [0, 0]
  logs = [process.log.read_text() for process in processes]
  stopped = steps_kept(folder)[-1]
  assert stopped < STEPS
  assert f"stopped by a signal; {folder} is saved at step {stopped}" in logs[0]
  assert "step 2 of" in logs[0] and "step 2 of" not in logs[1]

  # Killed, one of them: the other ends soon, and says which.
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

  # On another number of processes it goes on to the same end.
  process = start(*argv)
  assert process.wait(PATIENCE) == 0, process.log.read_text()[-2000:]
  assert steps_kept(folder)[-1] == STEPS
  mine = {line["step"]: line for line in read_metrics(folder)}
  for line in read_metrics(long_reference):
    if line["step"] == stopped + stopped % 2:
      continue  # the window that was cut in two
    assert mine[line["step"]]["loss"] == pytest.approx(line["loss"], rel=1e-4)
  a, b = state_at(folder, STEPS), state_at(long_reference, STEPS)
  assert a.keys() == b.keys()
  for name in a:
    if "['params']" in name:
      np.testing.assert_allclose(a[name], b[name], atol=1e-3)


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
