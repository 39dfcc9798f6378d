"""launch/gcp.sh status, logs and delete; and jobs in a cluster."""

import pytest
import yaml

TPU = "--accelerator=v5p:4x4x4"
GPU = "--accelerator=a100-80gb:2x8"
WHERE = (
  "--zone=us-east5-a",
  "--workdir=gs://bucket/My_run",
  "--config=configs/digits.py:tiny",
)
INSTANCES = "gcloud compute instances"
LABEL = "--filter=labels.scm-jax=scm-my-run"
ABSENT = [1, "", "ERROR: (gcloud.x) NOT_FOUND: Resource 'r' was not found."]
OK = [0, "", ""]
LOGGED_OUT = [1, "", "ERROR: You do not currently have an active account"]
DENIED = [1, "", "ERROR: PERMISSION_DENIED: Permission 'x' denied"]


def test_later_commands_need_the_name_only(cloud, repo):
  cloud("create", GPU, *WHERE, "--yes", "--spot", "--project=p")
  rules = [["storage cat", [[0, "scm-my-run-0 training", ""]]]]
  result, calls = cloud("status", "--name=scm-my-run", rules=rules)
  assert result.returncode == 0, result.stderr
  assert calls == [
    f"{INSTANCES} list --project=p {LABEL}",
    "gcloud storage cat gs://bucket/My_run/launch/state/*",
  ]
  assert "scm-my-run-0 training" in result.stdout
  result, calls = cloud("delete", "--workdir=gs://bucket/My_run")
  assert result.returncode == 0, result.stderr
  assert all("--project=p" in call for call in calls) and calls
  assert not (repo / cloud.scratch / "flags").exists()
  result, calls = cloud("status", "--name=scm-my-run")
  assert (result.returncode, calls) == (2, [])


def test_delete_deletes_in_every_zone_and_looks(cloud):
  both = [0, "scm-my-run-0 za\nscm-my-run-1 zb", ""]
  listing = f"{INSTANCES} list {LABEL} --format=value(name,zone.basename())"
  rules = [["instances list", [both, OK]]]
  result, calls = cloud("delete", GPU, *WHERE, rules=rules)
  assert result.returncode == 0, result.stderr
  assert calls == [
    listing,
    f"{INSTANCES} delete scm-my-run-0 --zone=za --quiet",
    f"{INSTANCES} delete scm-my-run-1 --zone=zb --quiet",
    listing,
  ]


def test_delete_of_nothing_is_done(cloud):
  rules = [["queued-resources delete", [ABSENT]]]
  result, calls = cloud("delete", TPU, *WHERE, rules=rules)
  assert (result.returncode, result.stderr) == (0, "")
  assert calls == [cloud.delete_tpu, *cloud.left_tpu]


@pytest.mark.parametrize(
  ("rules", "message"),
  [
    (
      [["queued-resources list", [[0, "projects/p/q/scm-my-run", ""]]]],
      "gcp.sh: still there: projects/p/q/scm-my-run; run delete again",
    ),
    (
      [["tpu-vm list", [[0, "projects/p/n/scm-my-run", ""]]]],
      "gcp.sh: still there: projects/p/n/scm-my-run; run delete again",
    ),
    (
      [["queued-resources list", [LOGGED_OUT]]],
      "you are not logged in",
    ),
    (
      [
        ["queued-resources delete", [[1, "", "ERROR: no"]]],
        ["tpu-vm list", [[0, "x/scm-my-run", ""]]],
      ],
      "still there",
    ),
  ],
)
def test_a_failed_delete_says_what_is_left(cloud, rules, message):
  result, calls = cloud("delete", TPU, *WHERE, rules=rules)
  assert result.returncode == 1
  assert calls[0] == cloud.delete_tpu
  assert message in result.stderr.splitlines()[-1]


def test_logs_come_from_the_host_or_from_what_it_kept(cloud):
  result, calls = cloud("logs", GPU, *WHERE, "--host=1", "--follow")
  assert result.returncode == 0
  assert calls == [
    "gcloud compute ssh scm-my-run-1 --zone=us-east5-a --command=sudo"
    " journalctl --unit=scm-jax --output=cat --lines=200 --follow"
  ]
  rules = [["ssh", [[255, "", "ERROR: no route"]]], ["cat", [[0, "kept", ""]]]]
  result, calls = cloud("logs", TPU, *WHERE, rules=rules)
  assert (result.returncode, result.stdout) == (0, "kept\n")
  assert calls[-1] == "gcloud storage cat gs://bucket/My_run/launch/logs/*"


def test_a_job_in_a_cluster(cloud, repo):
  flags = (GPU, *WHERE, "--gke=pool", "--spot")
  credentials = (
    "gcloud container clusters get-credentials pool --location=us-east5-a"
  )
  result, calls = cloud("create", *flags, "--yes")
  assert result.returncode == 0, result.stderr
  assert calls == [
    credentials,
    "kubectl get jobset scm-my-run --ignore-not-found --output=name",
    *cloud.ship,
    f"kubectl apply --filename={cloud.scratch}/jobset.yaml",
  ]
  rules = [["kubectl get", [[0, "pod/scm-my-run-train-0-0", ""], OK]]]
  result, calls = cloud("delete", "--name=scm-my-run", rules=rules)
  assert calls[:2] == [
    credentials,
    "kubectl delete jobset scm-my-run --ignore-not-found --wait",
  ]
  assert result.returncode == 1
  assert "still there: pod/scm-my-run-train-0-0" in result.stderr
  assert cloud("delete", "--name=scm-my-run")[0].returncode == 0


@pytest.mark.parametrize(
  ("rules", "message"),
  [
    ([["get-credentials", [DENIED]]], "you may not"),
    (
      [["apply", [[1, "", 'no matches for kind "JobSet" in version "x"']]]],
      "the cluster does not know JobSets",
    ),
  ],
)
def test_a_cluster_that_does_not_take_the_job(cloud, rules, message):
  result, _ = cloud("create", GPU, *WHERE, "--gke=c", "--yes", rules=rules)
  assert result.returncode == 1 and message in result.stderr


@pytest.mark.parametrize(
  ("accelerator", "hosts", "chips", "limits"),
  [
    ("v5e:4x4", 4, "tpu-v5-lite-podslice", {"google.com/tpu": 4}),
    ("v6e:2x4", 1, "tpu-v6e-slice", {"google.com/tpu": 8}),
    ("a100-40gb:2x8", 2, "nvidia-tesla-a100", {"nvidia.com/gpu": 8}),
  ],
)
def test_the_manifest(cloud, repo, accelerator, hosts, chips, limits):
  flag = f"--accelerator={accelerator}"
  cloud("create", flag, *WHERE, "--gke=c", "--yes", "--spot")
  whole = yaml.safe_load((repo / cloud.scratch / "jobset.yaml").read_text())
  job = whole["spec"]["replicatedJobs"][0]["template"]["spec"]
  assert job["completionMode"] == "Indexed"
  assert job["parallelism"] == job["completions"] == hosts
  pod = job["template"]["spec"]
  assert chips in pod["nodeSelector"].values()
  assert pod["tolerations"][0]["key"] == "cloud.google.com/gke-spot"
  (container,) = pod["containers"]
  assert container["resources"]["limits"] == limits
  env = {item["name"]: item.get("value") for item in container["env"]}
  if hosts > 1 and "nvidia.com/gpu" in limits:
    assert env["SCM_COORDINATOR"] == "scm-my-run-train-0-0.scm-my-run:8476"
    assert env["SCM_NUM_PROCESSES"] == str(hosts)
    assert "SCM_PROCESS_ID" in env
  else:
    assert not any(name.startswith("SCM_") for name in env)
