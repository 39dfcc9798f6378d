"""A teacher, its guide and a start that are never whole on one device."""

import json
import zlib

import jax
import numpy as np
import pytest

from scm_jax.training import workdir
from scm_jax.training.ema import averaging

pytestmark = pytest.mark.slow
PATIENCE = 900  # seconds to wait for a process before a test fails
TEACHERS = ("checkpoint", "snapshots", "guided", "export")


@pytest.fixture(scope="module")
def loaded(printed_by) -> dict:
  """What `eight_devices_load.py` prints."""
  return printed_by("eight_devices_load")


@pytest.mark.parametrize("name", (*TEACHERS, "start"))
def test_each_device_holds_its_part_by_the_rule(loaded, name):
  assert loaded[name]["placed"]


@pytest.mark.parametrize("name", ("checkpoint", "snapshots", "export", "start"))
def test_no_array_was_ever_whole_on_a_device(loaded, name):
  assert loaded["whole"]["most"] > 40  # read to one device, for comparison
  assert loaded[name]["most"] == 0


def test_one_array_of_a_guide_was(loaded):
  """For the checksum of its weights as they are used: what went into its
  normalisation and what came out.
  """
  assert loaded["guided"]["most"] <= 2


@pytest.mark.parametrize("name", TEACHERS)
def test_weights_are_those_of_one_device(loaded, name):
  """To the bit as stored; normalised in shards, to the order of summation."""
  assert loaded[name]["average"]["same"]
  assert loaded[name]["weights"]["apart"] < 1e-5
  assert loaded["export"]["weights"]["same"]  # stored as they are used


def test_a_start_is_that_of_one_device(loaded):
  assert loaded["start"]["weights"]["apart"] < 1e-5


@pytest.mark.parametrize("name", TEACHERS)
def test_the_checksum_is_what_it_always_was(loaded, name):
  assert loaded[name]["checksum"] == loaded[name]["golden"]


def test_a_run_begins_with_its_own_parts_alone(loaded):
  """State and teacher lie as the step wants them; no second copy stays."""
  run = loaded["begin"]
  assert run["placed"] == [True, True]
  assert run["most"] <= 2  # of the guide, as above
  assert run["left"] == 0


def test_two_processes_share_a_teacher(
  pair, start, flags, make_config, read_metrics, monkeypatch, tmp_path
):
  """And its guide; they go on from them as one process with two devices."""
  config, rng = make_config("teacher"), np.random.default_rng(0)
  normal = lambda leaf: rng.normal(size=leaf.shape).astype(np.float32)
  draw = lambda: jax.tree.map(normal, workdir.param_shapes(config))
  write = lambda folder, **more: workdir.write_averages(
    folder,
    config,
    {averaging.name(a): draw() for a in config.ema},
    1,
    {},
    **more,
  )
  teacher = write(
    tmp_path / "teacher",
    beside=lambda partial: write(partial / workdir.GUIDE),
  )
  argv = lambda folder, steps: [
    *("train", f"--workdir={folder}"),
    *flags(
      *("scd", f"--config.teacher={teacher}", "--config.mesh.fsdp=2"),
      *("--config.sharding.min_size=64", f"--config.total_steps={steps}"),
    ),
  ]
  two, one = tmp_path / "two", tmp_path / "one"
  for steps in (2, 4):
    processes = pair(*argv(two, steps))
    codes = [process.wait(PATIENCE) for process in processes]
    assert codes == [0, 0], processes[0].log.read_text()[-2000:]
  log = processes[0].log.read_text()
  assert "continuing from step 2" in log
  monkeypatch.setenv("JAX_NUM_CPU_DEVICES", "2")
  process = start(*argv(one, 4))
  assert process.wait(PATIENCE) == 0, process.log.read_text()[-2000:]

  losses = [
    {line["step"]: line["loss"] for line in read_metrics(run) if "loss" in line}
    for run in (two, one)
  ]
  assert losses[0].keys() == losses[1].keys() == {2, 4}
  assert losses[0] == pytest.approx(losses[1], rel=1e-4)
  stored = workdir.load_stored(teacher, 0.0)
  value = 0
  for leaf in jax.tree.leaves([stored.average, stored.model.guidance_params]):
    value = zlib.crc32(np.asarray(leaf).tobytes(), value)
  for run in (two, one):
    noted = json.loads((run / workdir.TEACHER).read_text())
    assert noted["checksum"] == value
