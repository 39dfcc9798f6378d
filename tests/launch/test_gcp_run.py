"""launch/gcp.sh run: preempted machines come back until the run has ended."""

import pytest

TPU = "--accelerator=v5p:4x4x4"
GPU = "--accelerator=a100-80gb:2x8"
WHERE = (
  "--zone=us-east5-a",
  "--workdir=gs://bucket/My_run",
  "--config=configs/digits.py:tiny",
)
INSTANCES = "gcloud compute instances"
ABSENT = [1, "", "ERROR: (gcloud.x) NOT_FOUND: Resource 'r' was not found."]
OK = [0, "", ""]
FULL = [1, "", "ERROR: (gcloud.x) ZONE_RESOURCE_POOL_EXHAUSTED"]
DENIED = [1, "", "ERROR: PERMISSION_DENIED: Permission 'x' denied"]


def state(*words):
  return [[0, word, ""] if word else ABSENT for word in words]


TRAINING = [0, "scm-my-run-0 training", ""]
COMPLETE = [0, "scm-my-run-0 complete\nscm-my-run-1 training", ""]


def changes(calls: list[str]) -> list[str]:
  asks = ("describe", "list", "storage cat")
  return [c for c in calls if not any(ask in c for ask in asks)]


def test_a_preempted_slice_is_made_again_until_the_run_is_complete(cloud):
  rules = [
    [
      "queued-resources describe",
      state("", "WAITING_FOR_RESOURCES", "ACTIVE", "SUSPENDED", "ACTIVE"),
    ],
    ["tpu-vm describe", state("READY")],
    ["storage cat", [TRAINING] * 4 + [COMPLETE]],
  ]
  result, calls = cloud("run", TPU, *WHERE, "--yes", rules=rules)
  assert result.returncode == 0, result.stderr
  assert changes(calls) == [
    *cloud.ship,
    cloud.create_tpu,
    cloud.delete_tpu,
    cloud.create_tpu,
    cloud.delete_tpu,
  ]
  assert calls[-2:] == cloud.left_tpu
  lines = result.stdout.splitlines()
  assert [line for line in lines if " is " in line] == [
    "==> scm-my-run is waiting",
    "==> scm-my-run is running",
    "==> scm-my-run is gone",
    "==> scm-my-run is running",
    "==> nothing of scm-my-run is left running; gs://bucket/My_run stays",
  ]


def test_a_node_may_be_preempted_before_its_queue_knows(cloud):
  rules = [
    ["queued-resources describe", state("ACTIVE")],
    ["tpu-vm describe", state("PREEMPTED", "PREEMPTED", "READY")],
    ["storage cat", [TRAINING, TRAINING, COMPLETE]],
  ]
  result, calls = cloud("run", TPU, *WHERE, rules=rules)
  assert result.returncode == 0, result.stderr
  assert changes(calls) == [
    cloud.delete_tpu,
    cloud.create_tpu,
    cloud.delete_tpu,
  ]


def test_preempted_gpu_machines_start_again_where_there_is_room(cloud):
  stopped = "scm-my-run-0\tRUNNING\nscm-my-run-1\tTERMINATED"
  rules = [
    [
      "instances list value(status)",
      state("RUNNING\nTERMINATED", "RUNNING\nTERMINATED")
      + state("RUNNING\nTERMINATED", "RUNNING\nRUNNING"),
    ],
    ["instances list value(name,status)", state(stopped)],
    [
      "instances list zone.basename",
      [[0, "scm-my-run-0 z\nscm-my-run-1 z", ""], OK],
    ],
    ["instances start", [FULL, OK]],
    ["storage cat", [TRAINING] * 3 + [COMPLETE]],
  ]
  result, calls = cloud("run", GPU, *WHERE, "--spot", rules=rules)
  assert result.returncode == 0, result.stderr
  start = f"{INSTANCES} start scm-my-run-1 --zone=us-east5-a"
  assert changes(calls) == [
    start,
    start,
    f"{INSTANCES} delete scm-my-run-0 scm-my-run-1 --zone=z --quiet",
  ]
  assert "trying again at the next look" in result.stdout


def test_a_deleted_gpu_machine_is_made_again(cloud):
  rules = [
    ["instances list value(status)", state("RUNNING", "RUNNING")],
    ["instances list value(name,status)", state("scm-my-run-0\tRUNNING")],
    ["instances list zone.basename", [OK]],
    ["storage cat", [TRAINING, COMPLETE]],
  ]
  result, calls = cloud("run", GPU, *WHERE, rules=rules)
  assert result.returncode == 0, result.stderr
  one = cloud.create_gpu.replace(" scm-my-run-0 ", " ")
  assert changes(calls) == [one]


def test_a_watch_that_gives_up_names_what_goes_on(cloud):
  rules = [
    ["instances list value(status)", state("RUNNING\nTERMINATED")],
    ["instances list value(name,status)", state("scm-my-run-0\tRUNNING")],
    ["instances list zone.basename", [[0, "scm-my-run-0 z", ""]]],
    ["instances create", [DENIED]],
    ["storage cat", [TRAINING]],
  ]
  result, _ = cloud("run", GPU, *WHERE, rules=rules)
  assert result.returncode == 1
  assert result.stderr.splitlines()[-1] == (
    "gcp.sh: gave up; still there and costing money: scm-my-run-0 z;"
    " launch/gcp.sh delete --name=scm-my-run"
  )


def test_run_waits_for_room_but_not_for_rights(cloud):
  rules = [
    ["queued-resources create", [FULL, DENIED]],
    ["storage cat", [TRAINING]],
  ]
  result, calls = cloud("run", TPU, *WHERE, "--yes", rules=rules)
  assert result.returncode == 1
  assert calls.count(cloud.create_tpu) == 2
  assert "trying again at the next look" in result.stdout
  assert result.stderr.endswith("nothing is left running\n")


@pytest.mark.parametrize("keep", [True, False])
def test_a_failed_training_ends_the_run(cloud, keep):
  failed = [0, "scm-my-run-0 failed with exit code 2: bad config", ""]
  rules = [
    ["queued-resources describe", state("ACTIVE")],
    ["tpu-vm describe", state("READY")],
    ["storage cat", [TRAINING, failed]],
  ]
  flags = ["--keep"] if keep else []
  result, calls = cloud("run", TPU, *WHERE, *flags, rules=rules)
  assert result.returncode == 1
  assert changes(calls) == ([] if keep else [cloud.delete_tpu])
  assert "failed with exit code 2: bad config" in result.stdout


def test_a_run_that_somebody_deleted_is_not_made_again(cloud):
  rules = [
    ["queued-resources describe", state("ACTIVE", "ACTIVE", "")],
    ["tpu-vm describe", state("READY")],
    ["storage cat", [TRAINING]],
  ]
  result, calls = cloud("run", TPU, *WHERE, rules=rules)
  assert (result.returncode, changes(calls)) == (1, [])
  assert "was deleted by somebody else" in result.stderr


def test_update_ships_and_starts_the_training_again(cloud):
  rules = [
    ["queued-resources describe", state("ACTIVE")],
    ["tpu-vm describe", state("READY")],
    ["storage cat", [COMPLETE]],
  ]
  result, calls = cloud("run", TPU, *WHERE, "--update", "--keep", rules=rules)
  assert result.returncode == 0, result.stderr
  *ship, ssh = changes(calls)
  assert ship == cloud.ship
  assert ssh.startswith(
    f"gcloud compute tpus tpu-vm ssh {cloud.place} --worker=all --command="
    "sudo systemctl stop scm-jax;"
  )
