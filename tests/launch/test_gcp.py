"""launch/gcp.sh in a fake cloud: what is made, retried, resumed and deleted."""

import shlex
import shutil
import subprocess

import pytest
import yaml

WHERE = (
  "--zone=us-east5-a",
  "--workdir=gs://bucket/My_run",
  "--config=configs/digits.py:tiny",
)
TPU = ("--accelerator=v5p:4x4x4", *WHERE)
GPU = ("--accelerator=a100-80gb:2x8", *WHERE)
CLUSTER = (*GPU, "--gke=pool")
NAME = "scm-my-run"
PAIR = {"scm-my-run-0", "scm-my-run-1"}
FULL = "ERROR: (gcloud.x) ZONE_RESOURCE_POOL_EXHAUSTED"
DENIED = "ERROR: PERMISSION_DENIED: Permission 'x' denied on resource y"
LOGGED_OUT = "ERROR: You do not currently have an active account selected."
TRAINING, COMPLETE = "scm-my-run-0 training", "scm-my-run-0 complete"


@pytest.mark.parametrize(
  ("flags", "machines"), [(TPU, {NAME}), (GPU, PAIR), (CLUSTER, {NAME})]
)
def test_create_uploads_the_job_and_makes_machines(cloud, flags, machines):
  result = cloud("create", *flags, "--yes", "--spot", "--config.seed=3")
  assert result.returncode == 0, result.stderr
  assert cloud.machines == machines
  assert cloud.now["bucket"] == [
    "configs.tar.gz",
    "host.sh",
    "job.env",
    "scm_jax-0.1.0-py3-none-any.whl",
  ]
  job = cloud.job()
  assert job["CONFIG"] == "configs/digits.py:tiny"
  assert job["OVERRIDES"] == "--config.seed=3"
  # The versions of here, but none of what belongs to another accelerator.
  assert job["PINS"] == "jax==0.10.2 flax==0.12.8"
  assert job["HOSTS"] == ("16" if flags is TPU else "2")
  archive = ["tar", "-tzf", cloud.folder / "configs.tar.gz"]
  listing = subprocess.run(archive, capture_output=True, text=True).stdout
  assert listing.split() == ["configs/digits.py", "configs/mnist.py"]


def test_a_job_without_overrides_has_no_word(cloud):
  """Not an empty one either, which `scm-jax train` would refuse."""
  assert cloud("create", *TPU, "--yes", "--spot").returncode == 0
  text = f'source "{cloud.folder}/job.env"; echo "${{#OVERRIDES[@]}}"'
  done = subprocess.run(["bash", "-c", text], capture_output=True, text=True)
  assert done.stdout == "0\n"


def test_what_a_slice_and_a_machine_are_made_with(cloud):
  assert "$268.80 an hour" in cloud("create", *TPU, "--yes", "--spot").stderr
  flags = cloud.now["tpus"][NAME]["flags"]
  assert (flags["topology"], flags["type"]) == ("4x4x4", "v5p")
  assert "spot" in flags
  assert cloud("delete", *TPU).returncode == 0
  assert cloud("create", *GPU, "--yes", "--spot").returncode == 0
  flags = cloud.now["instances"]["scm-my-run-1"]["flags"]
  assert flags["machine-type"] == "a2-ultragpu-8g"
  assert flags["provisioning-model"] == "SPOT"
  assert flags["zone"] == "us-east5-a"


@pytest.mark.parametrize("flags", [TPU, (*GPU, "--project=p"), CLUSTER])
def test_dry_run_prints_a_script_that_does_the_same(cloud, program, flags):
  printed = cloud("create", *flags, "--dry-run")
  assert printed.returncode == 0
  assert not cloud.machines and not cloud.folder.exists()
  cloud("create", *flags, "--yes")
  real, files = cloud.now, {p.name for p in cloud.folder.iterdir()}
  shutil.rmtree(cloud.folder)
  cloud.now = real | {"tpus": {}, "instances": {}, "jobsets": {}, "bucket": []}
  program(cloud.repo / "printed", printed.stdout)
  result = cloud(script="printed")
  assert result.returncode == 0, result.stderr
  assert cloud.now == real
  aside = {"flags", "stderr", "errors"}  # what gcp.sh itself keeps
  assert {p.name for p in cloud.folder.iterdir()} == files - aside


def test_nothing_is_made_without_consent_or_over_what_exists(cloud):
  assert cloud("create", *TPU).returncode == 1  # no terminal to ask at
  assert not cloud.machines
  cloud("create", *TPU, "--yes")
  assert cloud("create", *TPU, "--yes").returncode == 1
  assert cloud.history == []


REFUSALS = [
  (
    "Quota limit 'TPUV5PPerProject' has been exceeded. Limit: 0",
    "iam-admin/qu",
  ),
  ("- Quota 'NVIDIA_A100_80GB_GPUS' exceeded.  Limit: 0.0", "iam-admin/quotas"),
  ("- The zone 'z' does not have enough resources available", "another --zone"),
  ("ERROR: Failed to find attribute [project].", "gcloud config set project"),
  ('There is no more capacity in the zone "us-east5-a"', "another --zone"),
  ("PERMISSION_DENIED: 'tpu.nodes.create' denied on x", "roles/tpu.admin"),
  ("HTTPError 403: no storage.objects.create access to", "storage.objectAdmin"),
  ("PERMISSION_DENIED: Cloud TPU API has not been used", "services enable"),
  ("Permission denied on 'locations/z' (or it may not exist)", "types list"),
  (LOGGED_OUT, "gcloud auth login"),
  ("something new\nand more", ".cache/gcp/scm-my-run/errors"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("error", "advice"), REFUSALS)
def test_a_failed_create_is_explained_and_cleaned_up(cloud, error, advice):
  fault = ("instances create", f"ERROR: {error}", "partial")
  result = cloud("create", *GPU, "--yes", faults=[fault])
  assert result.returncode == 1
  assert cloud.history[-1] == "delete scm-my-run-0" and not cloud.machines
  _, failed, left = result.stderr.splitlines()
  assert advice in failed and error[:13] in failed
  assert "nothing is left" in left


@pytest.mark.slow
def test_machines_that_cannot_be_deleted_are_named(cloud):
  faults = [("instances create", FULL, "partial"), ("delete", "ERROR: no")]
  result = cloud("create", *GPU, "--yes", faults=faults)
  assert result.returncode == 1 and cloud.machines == {"scm-my-run-0"}
  last = result.stderr.splitlines()[-1]
  assert "scm-my-run-0" in last and f"delete --name={NAME}" in last


@pytest.mark.slow
@pytest.mark.parametrize("flags", [TPU, GPU])
def test_an_interrupted_create_is_cleaned_up(cloud, flags):
  fault = ("compute create", "interrupt")
  result = cloud("create", *flags, "--yes", faults=[fault])
  assert result.returncode == 130
  assert len(cloud.history) == 2 and not cloud.machines


@pytest.mark.slow
@pytest.mark.parametrize(
  "call", ["describe", "pip wheel", "storage rm", "storage cp"]
)
def test_no_machine_is_made_if_an_earlier_call_fails(cloud, call):
  env = {"BAD_WHEEL": "1"} if call == "pip wheel" else {}
  faults = [] if env else [(call, LOGGED_OUT)]
  result = cloud("create", *TPU, "--yes", faults=faults, **env)
  assert result.returncode == 1 and not cloud.history
  assert env or "gcloud auth login" in result.stderr


def test_an_empty_bucket_is_no_failure(cloud):
  fault = ("storage rm", "ERROR: The following URLs matched no objects")
  result = cloud("create", *TPU, "--yes", faults=[fault])
  assert result.returncode == 0 and cloud.machines == {NAME}
  assert "matched no objects" not in result.stderr


@pytest.mark.parametrize(
  ("flags", "named"),
  [
    (("--acc=v5p",), "--acc=v5p"),
    ((), "--accelerator"),
    (("--accelerator=v9:2x2",), "v9:2x2"),
    (("--accelerator=a100-80gb",), "a100-80gb"),
    (("--accelerator=v5e:3x3",), "3x3"),
    (("--accelerator=v5p:4x4x5",), "4x4x5"),
    (("--accelerator=v5p:8x8",), "8x8"),
    (("--accelerator=a100-80gb:0x8",), "0x8"),
    (("--accelerator=h100-80gb:1x3",), "h100-80gb"),
    (("--accelerator=h100-80gb:1x4",), "--spot"),
    ((TPU[0], "--zone=z", "--workdir=/local"), "gs://"),
    ((TPU[0], "--workdir=gs://b/c"), "--zone"),
    ((*TPU, "--name=X"), "--name=X"),
    ((*TPU, "--config=configs/no.py"), "configs/no.py"),
    ((*TPU, "--config.teacher=runs/t"), "--config.teacher=runs/t"),
    ((*TPU, "--config.teacher=teacher"), "--config.teacher=teacher"),
    ((*TPU, "--config.data.data_dir=/data"), "--config.data.data_dir=/data"),
    ((*TPU, "--config.data.autoencoder=vae.pt"), "data.autoencoder=vae.pt"),
  ],
)
def test_bad_arguments_exit_2(cloud, flags, named):
  where = () if "--workdir" in str(flags) else ("--workdir=gs://b/c",)
  result = cloud("create", *flags, *where)
  assert result.returncode == 2 and not cloud.history
  assert named in result.stderr and result.stderr.count("\n") == 1


def test_a_preempted_slice_is_made_again_until_the_run_is_complete(cloud):
  reports = [
    (TRAINING, {NAME: "WAITING_FOR_RESOURCES"}),
    (TRAINING, {NAME: "ACTIVE"}),
    (TRAINING, {NAME: "SUSPENDED"}),
    # A node may be preempted before its queued resource says so.
    (TRAINING, {NAME: "PREEMPTED"}),
    f"{COMPLETE}\nscm-my-run-1 training",
  ]
  result = cloud("run", *TPU, "--yes", reports=reports)
  assert result.returncode == 0, result.stderr
  again = [f"delete {NAME}", f"create {NAME}"]
  assert cloud.history == [again[1], *again, *again, again[0]]
  assert not cloud.machines
  states = [s for s in result.stdout.split() if s in ("waiting", "gone")]
  assert states == ["waiting", "gone", "gone"]


@pytest.mark.slow
def test_preempted_machines_start_again_and_deleted_ones_are_made(cloud):
  cloud("create", *GPU, "--yes", "--spot")
  reports = [
    TRAINING,
    (TRAINING, {"scm-my-run-1": "TERMINATED"}),
    TRAINING,
    (TRAINING, {"scm-my-run-0": None}),
    COMPLETE,
  ]
  no_room = ("instances start", FULL, 1)
  result = cloud("run", *GPU, reports=reports, faults=[no_room])
  assert result.returncode == 0, result.stderr
  assert "at the next look" in result.stdout
  start, make, delete = cloud.history
  assert start == "start scm-my-run-1" and make == "create scm-my-run-0"
  assert delete.startswith("delete ") and not cloud.machines


@pytest.mark.slow
def test_a_watch_that_gives_up_names_what_goes_on(cloud):
  cloud("create", *GPU, "--yes")
  reports = [TRAINING, (TRAINING, {"scm-my-run-1": None})]
  faults = [("instances create", DENIED)]
  result = cloud("run", *GPU, reports=reports, faults=faults)
  assert result.returncode == 1 and cloud.machines == {"scm-my-run-0"}
  assert "scm-my-run-0" in result.stderr
  assert f"delete --name={NAME}" in result.stderr


@pytest.mark.slow
def test_run_waits_for_room_but_not_for_permissions(cloud):
  faults = [("queued create", FULL, 1), ("queued create", DENIED)]
  result = cloud("run", *TPU, "--yes", faults=faults, reports=[TRAINING] * 9)
  assert result.returncode == 1 and not cloud.machines
  assert result.stdout.count("at the next look") == 1
  assert "roles/tpu.admin" in result.stderr


@pytest.mark.slow
@pytest.mark.parametrize("keep", [True, False])
def test_a_failed_training_ends_the_run(cloud, keep):
  cloud("create", *TPU, "--yes")
  failed = "scm-my-run-0 failed with exit code 2: the save is not complete"
  flags = ["--keep"] if keep else []
  result = cloud("run", *TPU, *flags, reports=[TRAINING, failed])
  assert result.returncode == 1 and failed in result.stdout
  assert cloud.machines == ({NAME} if keep else set())


@pytest.mark.slow
def test_a_run_that_somebody_deleted_is_not_made_again(cloud):
  cloud("create", *TPU, "--yes")
  reports = [TRAINING, (TRAINING, {NAME: None}), TRAINING]
  result = cloud("run", *TPU, reports=reports)
  assert (result.returncode, cloud.history) == (1, [])


def test_update_sends_new_code_to_existing_machines(cloud):
  cloud("create", *GPU, "--yes")
  cloud.now["bucket"] = []
  result = cloud("run", *GPU, "--update", "--keep", reports=[COMPLETE])
  assert result.returncode == 0, result.stderr
  assert len(cloud.now["bucket"]) == 4
  assert cloud.history == ["ssh scm-my-run-0", "ssh scm-my-run-1"]


def test_later_commands_need_the_name_only(cloud):
  cloud("create", *GPU, "--yes", "--project=p")
  result = cloud("status", f"--name={NAME}", reports=[TRAINING])
  assert result.returncode == 0 and TRAINING in result.stdout
  result = cloud("delete", "--workdir=gs://bucket/My_run")
  assert result.returncode == 0 and not cloud.machines
  # What create was told is forgotten with its machines.
  assert cloud("status", f"--name={NAME}").returncode == 2


def test_delete_finds_machines_in_every_zone(cloud):
  cloud("create", *GPU, "--yes")
  cloud.now["instances"]["scm-my-run-1"]["zone"] = "another"
  assert cloud("delete", *GPU).returncode == 0
  assert len(cloud.history) == 2 and not cloud.machines


@pytest.mark.parametrize("verb", ["create", "run"])
@pytest.mark.parametrize(
  "other", ["--zone=europe-west4-b", "--accelerator=v5p:4x4x8"]
)
def test_other_machines_of_the_same_name_are_refused(cloud, verb, other):
  """Nobody would find those of the first zone again, nor delete them."""
  cloud("create", *TPU, "--yes")
  result = cloud(verb, *TPU, other, "--yes")
  assert (result.returncode, cloud.history) == (1, [])
  assert f"delete --name={NAME}" in result.stderr
  assert cloud("delete", f"--name={NAME}").returncode == 0
  assert cloud("create", *TPU, other, "--yes").returncode == 0


def test_another_zone_can_be_tried_where_one_was_full(cloud):
  cloud("create", *TPU, "--yes", faults=[("queued create", FULL)])
  assert cloud("create", *TPU, "--zone=b", "--yes").returncode == 0
  assert cloud("status", f"--name={NAME}").returncode == 0


def test_another_config_needs_update(cloud):
  cloud("create", *TPU, "--yes", "--config.seed=1")
  result = cloud("run", *TPU, "--config.seed=2", reports=[TRAINING])
  assert (result.returncode, cloud.history) == (1, [])
  assert "--update" in result.stderr and cloud.machines
  flags = ("--config.seed=2", "--update")
  result = cloud("run", *TPU, *flags, reports=[TRAINING, f"{NAME}-0 complete"])
  assert result.returncode == 0
  assert cloud.job()["OVERRIDES"] == "--config.seed=2"


def test_delete_of_nothing_is_done(cloud):
  result = cloud("delete", *TPU)
  assert (result.returncode, result.stderr) == (0, "")


@pytest.mark.slow
@pytest.mark.parametrize("call", ["queued delete", "tpu-vm list"])
def test_a_failed_delete_says_what_may_be_left(cloud, call):
  cloud("create", *TPU, "--yes")
  result = cloud("delete", *TPU, faults=[(call, LOGGED_OUT)])
  assert result.returncode == 1
  assert "gcloud auth login" in result.stderr
  assert NAME in result.stderr.splitlines()[-1]


def test_logs_come_from_the_host_or_from_what_it_kept(cloud):
  cloud("create", *GPU, "--yes")
  assert cloud("logs", *GPU, "--host=1", "--follow").returncode == 0
  assert cloud.history == ["ssh scm-my-run-1"]
  result = cloud("logs", *GPU, faults=[("ssh", "ERROR: no route")])
  assert (result.returncode, result.stdout) == (0, "the kept log\n")


def test_a_job_in_a_cluster_is_deleted_with_its_pods(cloud):
  cloud("create", *CLUSTER, "--yes")
  fault = ("kubectl delete", "ERROR: it hangs")
  result = cloud("delete", f"--name={NAME}", faults=[fault])
  assert result.returncode == 1 and NAME in result.stderr.splitlines()[-1]
  assert cloud("delete", f"--name={NAME}").returncode == 0
  assert not cloud.machines


@pytest.mark.slow
@pytest.mark.parametrize(
  ("call", "error", "advice"),
  [
    ("get-credentials", DENIED, "roles/container.developer"),
    ("apply", 'no matches for kind "JobSet" in version "x"', "jobset.sigs"),
  ],
)
def test_a_cluster_that_does_not_take_the_job(cloud, call, error, advice):
  result = cloud("create", *CLUSTER, "--yes", faults=[(call, error)])
  assert result.returncode == 1 and advice in result.stderr


def test_a_pod_finds_its_files_in_a_folder_with_a_space(cloud):
  where = ["--workdir=gs://bucket/of mine/My_run", *WHERE[::2]]
  done = cloud("create", CLUSTER[0], *where, "--gke=c", "--yes", "--spot")
  assert done.returncode == 0, done.stderr
  [jobset] = cloud.now["jobsets"].values()
  job = yaml.safe_load(jobset)["spec"]["replicatedJobs"][0]
  pod = job["template"]["spec"]["template"]["spec"]
  *_, script = pod["containers"][0]["command"]
  [line] = [x for x in script.splitlines() if x.startswith("gcloud storage cp")]
  uploaded = "gs://bucket/of mine/My_run/launch"
  files = [f"{uploaded}/host.sh", f"{uploaded}/job.env"]
  assert shlex.split(line) == ["gcloud", "storage", "cp", *files, "."]


@pytest.mark.parametrize(
  ("accelerator", "hosts", "chips", "limits"),
  [
    ("v5e:4x4", 4, "tpu-v5-lite-podslice", {"google.com/tpu": 4}),
    ("v6e:2x4", 1, "tpu-v6e-slice", {"google.com/tpu": 8}),
    ("a100-40gb:2x8", 2, "nvidia-tesla-a100", {"nvidia.com/gpu": 8}),
  ],
)
def test_the_manifest(cloud, accelerator, hosts, chips, limits):
  flag = f"--accelerator={accelerator}"
  cloud("create", flag, *WHERE, "--gke=c", "--yes", "--spot")
  whole = yaml.safe_load(cloud.now["jobsets"][NAME])
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
