"""The command `sample`: files, determinism, mistakes."""

import argparse

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import scm_jax
from scm_jax import defaults, sampler_kinds, schema
from scm_jax.cli import flags


@pytest.fixture
def draw(command, runs, tmp_path):
  """`draw(run, *argv)`: the arrays of `samples.npz`."""
  number = iter(range(100))

  def run(name, *argv):
    out = tmp_path / str(next(number))
    code, said, err = command(
      "sample", f"--workdir={runs / name}", f"--out={out}", *argv
    )
    assert (code, err) == (0, ""), err
    assert str(out) in said
    return dict(np.load(out / "samples.npz")) | {"said": said, "out": out}

  return run


def test_files(draw):
  drawn = draw("scd", "--num=10", "--steps=2")
  assert drawn["samples"].shape == (10, 8, 8, 1)
  assert drawn["samples"].dtype == np.uint8
  assert drawn["labels"].tolist() == list(range(10))
  assert drawn["labels"].dtype == np.int32
  assert "10 images, 2 network evaluations each" in drawn["said"]
  grid = np.asarray(Image.open(drawn["out"] / "grid.png"))
  assert grid.dtype == np.uint8 and grid.ndim == 2
  assert grid.shape[1] > 5 * grid.shape[0]  # ten in one row
  assert {p.name for p in drawn["out"].iterdir()} == {"samples.npz", "grid.png"}


@pytest.mark.parametrize("name, steps", [("scd", 2), ("teacher", 4)])
def test_samples_are_functions_of_seed_number_and_label(name, steps, draw):
  """Neither of the batch they are drawn in nor of the others' labels."""
  argv = f"--steps={steps}", "--num=10"
  first = draw(name, *argv)["samples"]
  assert len(np.unique(first.reshape(10, -1), axis=0)) == 10
  np.testing.assert_array_equal(draw(name, *argv)["samples"], first)
  batches = draw(name, *argv, "--batch-size=4")["samples"]
  np.testing.assert_array_equal(batches, first)
  assert (
    (draw(name, *argv, "--seed=1")["samples"] != first)
    .any(axis=(1, 2, 3))
    .all()
  )

  labelled = draw(name, *argv, "--labels=2,1")
  assert labelled["labels"].tolist() == [2, 1] * 5
  same = labelled["labels"] == np.arange(10)
  assert same.sum() == 2
  equal = (labelled["samples"] == first).all(axis=(1, 2, 3))
  assert equal[same].all()


def test_default_steps(draw):
  """Two for a student; the config's for a teacher, by Heun."""
  said = draw("scd", "--num=10")["said"]
  assert "2 network evaluations each" in said
  said = draw("teacher", "--num=10")["said"]
  assert "7 network evaluations each" in said


@pytest.mark.parametrize("run", ["teacher", "scd"])
def test_defaults_are_the_configs_and_those_of_load(run, draw, configured):
  """To the bit; and a flag overrides each. This student takes no scale."""
  own = {"guidance": 1.5, "solver": "dpm_solver", "solver_steps": 3}
  own |= {"t_mid": 0.9, "sigma_max": 40.0, "guidance_interval": (0.3, 3.0)}
  own["guidance_channels"] = 1
  folder = configured(run, **own)
  drawn = draw(folder, "--num=10")
  loaded = scm_jax.load(folder).sample(num=10)
  np.testing.assert_array_equal(drawn["samples"], loaded)
  given = {
    "teacher": (
      "--guidance=1.5",
      "--solver=dpm_solver",
      "--steps=3",
      "--sigma-max=40",
      "--guidance-interval=0.3:3.0",
      "--guidance-channels=1",
    ),
    "scd": ("--t-mid=0.9", "--sigma-max=40", "--guidance=1"),
  }[run]
  other = draw(run, "--num=10", *given)
  np.testing.assert_array_equal(drawn["samples"], other["samples"])
  assert drawn["said"].splitlines()[1:] == other["said"].splitlines()[1:]
  line = drawn["said"].splitlines()[1]
  used = {
    "teacher": "steps 3, guidance 1.5, guidance_interval 0.3:3.0, "
    "guidance_channels 1, solver dpm_solver, sigma_max 40.0, ",
    "scd": "steps 2, guidance 1.0, t_mid 0.9, sigma_max 40.0, ",
  }[run]
  assert line == used + "dtype float32"
  plain = draw(run, "--num=10")["samples"]
  assert (plain != drawn["samples"]).any()


def test_times_of_all_steps(draw):
  drawn = draw("scd", "--num=10", "--times=1.2:0.4")
  assert "3 network evaluations each" in drawn["said"]
  assert "steps 3, guidance 1.0, times 1.2:0.4," in drawn["said"]


def test_another_type_is_that_of_load(draw, runs):
  drawn = draw("scd", "--num=10", "--dtype=bfloat16")
  assert "dtype bfloat16" in drawn["said"]
  narrow = scm_jax.load(runs / "scd", dtype="bfloat16")
  assert narrow.network.config.dtype == jnp.bfloat16
  np.testing.assert_array_equal(drawn["samples"], narrow.sample(num=10))


SAMPLE_ON_DEVICES = """
import sys
import numpy as np
import scm_jax
from scm_jax.cli import main
from scm_jax.sampler import Sampler

workdir, out, devices = sys.argv[1], sys.argv[2], int(sys.argv[3])
used, draw = [], Sampler.draw

def counted(self, *args, **kwargs):
  images = draw(self, *args, **kwargs)
  used.append(len(images.sharding.device_set))
  return images

Sampler.draw = counted
argv = ["sample", f"--workdir={workdir}", f"--out={out}", "--num=10"]
assert main.main(argv) == 0
by_command = np.load(f"{out}/samples.npz")["samples"]
by_library = scm_jax.load(workdir).sample(num=10)
np.testing.assert_array_equal(by_command, by_library)
assert used == [devices, devices], used
"""


@pytest.mark.parametrize(
  "run", ["scd", pytest.param("teacher", marks=pytest.mark.slow)]
)
def test_the_command_draws_what_the_library_draws_on_8_devices(
  run, draw, runs, python, tmp_path
):
  """And both draw what one device draws; 10 images do not divide by 8."""
  argv = "-c", SAMPLE_ON_DEVICES, runs / run, tmp_path / "eight", 8
  python(*argv, JAX_NUM_CPU_DEVICES="8", JAX_PLATFORMS="cpu")
  eight = np.load(tmp_path / "eight/samples.npz")["samples"]
  one = draw(run, "--num=10")["samples"]
  np.testing.assert_array_equal(eight, one)


def test_guidance_of_a_teacher_costs_twice_and_matters(draw):
  plain = draw("teacher", "--num=10", "--steps=1")
  guided = draw("teacher", "--num=10", "--steps=1", "--guidance=3")
  assert "1 network evaluations each" in plain["said"]
  assert "2 network evaluations each" in guided["said"]
  assert guided["samples"].shape == plain["samples"].shape


def test_averages_are_chosen_by_width(draw, runs):
  from scm_jax.training import workdir

  second = workdir.load_config(runs / "scd").ema[1]
  first = draw("scd", "--num=10")["samples"]
  other = draw("scd", "--num=10", f"--ema={second}")["samples"]
  assert first.shape == other.shape


def test_without_out_into_the_workdir(printed, runs):
  said = printed("sample", f"--workdir={runs}/scd", "--num=10")
  folder = runs / "scd/samples"
  assert str(folder) in said
  assert (folder / "samples.npz").exists() and (folder / "grid.png").exists()


@pytest.mark.parametrize(
  "argv, code, said",
  [
    (["--num=0"], 2, "--num is 0; it must be positive"),
    (["--steps=0"], 2, "--steps is 0; it must be positive"),
    (["--batch-size=-1"], 2, "--batch-size is -1; it must be positive"),
    (["--num=many"], 2, "invalid int value: 'many'"),
    (["--labels=11"], 2, "11 is not a label of this network"),
    (["--labels=-1"], 2, "-1 is not a label of this network"),
    (["--guidance=3"], 2, "this student was trained without guidance"),
    (["--t-mid=2"], 2, "--t-mid=2: a time must lie between 0 and pi/2"),
    (
      ["--guidance=1.2:1"],
      2,
      "one for each step, cannot be used: this student",
    ),
    (["--guidance=1:x"], 2, "'1:x': give numbers, or one for each step"),
    (["--times=0.5:1.2"], 2, "--times=0.5:1.2: times of steps must decrease"),
    (["--times=1.1", "--steps=3"], 2, "3 steps need 2 of them"),
    (["--gamma=0.5"], 2, "--gamma has no effect on a consistency model"),
    (["--solver=heun"], 2, "--solver has no effect"),
    (["--steps=1", "--times=1.0"], 2, "--times has no effect on one step"),
    (["--guidance-interval=0.3:3"], 2, "--guidance-interval has no effect on"),
    (["--guidance-interval=3:0.3"], 2, "give the lowest and the highest"),
    (["--guidance-interval=3:x"], 2, "'3:x': give two noise levels"),
    (["--guidance-channels=1"], 2, "--guidance-channels has no effect on"),
    (["--guidance-channels=-1"], 2, "it must be at least 0"),
    (["--labels=one"], 2, "--labels: 'one': give whole numbers"),
    (["--ema=0.77"], 1, "keeps no EMA of 0.77; it has 0."),
    (["--wrokdir=x"], 2, "no flag --wrokdir"),
  ],
)
def test_mistakes(argv, code, said, refused, runs, tmp_path):
  out = tmp_path / "out"
  err = refused(code, "sample", f"--workdir={runs}/scd", f"--out={out}", *argv)
  assert said in err
  assert not out.exists()


@pytest.mark.parametrize(
  "flag",
  [
    *("--t-mid=1", "--times=1", "--guide={}"),
    *("--guidance-interval=0.3:3", "--guidance-channels=1"),
  ],
)
def test_what_no_solver_takes(flag, refused, runs, tmp_path):
  argv = f"--workdir={runs}/teacher", f"--out={tmp_path}"
  said = refused(2, "sample", *argv, flag.format(runs / "teacher"))
  assert f"{flag.partition('=')[0]} has no effect" in said


def test_programs_are_kept_in_a_folder(refused, runs, tmp_path):
  file = tmp_path / "file"
  file.touch()
  argv = f"--workdir={runs}/scd", f"--compiled={file}", f"--out={tmp_path}/out"
  assert f"{file} is a file" in refused(2, "sample", *argv)


def test_no_workdir(refused, tmp_path):
  said = refused(1, "sample", f"--workdir={tmp_path}", "--num=10")
  assert f"{tmp_path} is not a workdir: it has no config.json" in said


def test_out_that_cannot_be_written(refused, runs, tmp_path):
  (tmp_path / "file").write_text("mine")
  said = refused(
    1, "sample", f"--workdir={runs}/scd", f"--out={tmp_path}/file", "--num=10"
  )
  assert f"{tmp_path}/file" in said
  assert (tmp_path / "file").read_text() == "mine"


def test_the_solvers_are_those_of_the_config_and_of_the_flag():
  """These two read no JAX, and so name the solvers themselves."""
  parser = argparse.ArgumentParser()
  flags.adder(flags.SAMPLER)(parser)
  [flag] = [a for a in parser._actions if a.dest == "solver"]
  allowed = schema.choices(defaults.Sample)["solver"]
  assert set(flag.choices) == set(allowed) == sampler_kinds.SOLVERS.keys()
