"""Workdirs: whose they are, what loads from them, what a teacher must be."""

import json
import re
import shutil

import jax
import numpy as np
import pytest

from scm_jax import configuration, networks
from scm_jax.errors import ConfigError, UserError
from scm_jax.networks import magnitude
from scm_jax.training import initialization, resolve, run_folder, workdir
from scm_jax.training.checkpoints import checksum
from scm_jax.training.ema import averaging


def one_line(info) -> str:
  text = str(info.value)
  assert "\n" not in text
  return text


def claim(config, folder):
  """What the loop does at the start of a run."""
  path = run_folder.open_for(config, str(folder))
  run_folder.write_config(path, config)
  return path


def test_the_config_comes_back(make_config, tmp_path):
  config = make_config("sct")
  path = claim(config, tmp_path / "a/b")
  read = workdir.load_config(path)
  assert configuration.diff(config, read) == []
  assert {p.name for p in path.iterdir()} == {"config.json"}
  with pytest.raises(AttributeError):  # locked, as the one that was written
    read.batchsize = 3


def test_a_config_of_an_older_version(make_config, tmp_path):
  """It lacks the fields of today, whose defaults do what was done then."""
  config = make_config("sct")
  path = claim(config, tmp_path)
  old = json.loads((path / "config.json").read_text())
  for field in ("watchdog", "mesh", "sharding"):
    del old[field]
  del old["network"]["remat"], old["objective"]["target"]
  del old["network"]["weighting"]
  (path / "config.json").write_text(json.dumps(old))
  assert configuration.diff(config, workdir.load_config(path)) == []
  run_folder.open_for(config, str(path))  # it continues


def test_a_teacher_of_an_older_version(make_config, tmp_path):
  """Its head saw the time otherwise; it loads, and a student starts from it."""
  config = make_config("teacher", "--config.network.weighting=positional")
  network = networks.build(resolve.resolve(config).network)
  params = jax.jit(network.init)(jax.random.key(1))
  averages = {averaging.name(a): params for a in config.ema}
  path = workdir.write_averages(tmp_path / "old", config, averages, 1, {})
  old = json.loads((path / "config.json").read_text())
  del old["network"]["weighting"]
  (path / "config.json").write_text(json.dumps(old))
  for kind in ("positional", "fourier"):
    for reset in (True, False):
      student = make_config(
        "sct",
        f"--config.network.weighting={kind}",
        f"--config.teacher={path}",
        "--config.objective.warmup_steps=1",
        f"--config.objective.reset_weighting={reset}",
      )
      teacher = initialization.load_teacher(
        resolve.resolve(student), tmp_path, begun=False
      )
      if kind == "fourier" and not reset:
        with pytest.raises(ConfigError, match="config.network.weighting"):
          initialization.load_start(resolve.resolve(student), teacher)
        continue
      weights = initialization.load_start(resolve.resolve(student), teacher)
      assert ("weighting" in weights) == (not reset)


@pytest.mark.parametrize(
  "change, said",
  [
    ("--config.batch_size=16", "batch_size: 8 -> 16"),
    ("--config.optimizer.learning_rate=0.5", "optimizer.learning_rate: "),
    ("--config.network.channels=16", "network.channels: 8 -> 16"),
    ("--config.objective.P_std=1.25", "objective.P_std: "),
    ("--config.seed=2", "seed: 1 -> 2"),
  ],
)
def test_another_config_is_refused_by_name(change, said, make_config, tmp_path):
  path = claim(make_config("teacher"), tmp_path)
  before = (path / "config.json").read_bytes()
  with pytest.raises(ConfigError) as info:
    run_folder.open_for(make_config("teacher", change), str(tmp_path))
  text = one_line(info)
  assert said in text and str(tmp_path) in text and "--workdir" in text
  assert (path / "config.json").read_bytes() == before


def test_another_run_is_refused(make_config, tmp_path):
  claim(make_config("teacher"), tmp_path)
  with pytest.raises(ConfigError, match="run: 'teacher' -> 'sct'"):
    run_folder.open_for(make_config("sct"), str(tmp_path))


@pytest.mark.parametrize(
  "change",
  [
    "--config.total_steps=99",
    "--config.checkpoint_every=3",
    "--config.log_every=3",
    "--config.sample_every=3",
    "--config.keep_every=3",
    "--config.divergence_limit=9.5",
    "--config.sample.solver_steps=2",
    "--config.data.data_dir=elsewhere",
  ],
)
def test_how_long_how_often_and_where_may_change(change, make_config, tmp_path):
  claim(make_config("teacher"), tmp_path)
  changed = make_config("teacher", change)
  path = claim(changed, tmp_path)
  assert configuration.diff(workdir.load_config(path), changed) == []


def test_a_cooldown_that_moves_is_said(make_config, tmp_path, caplog):
  """Only where it has begun, or would have."""
  cooldown = "--config.optimizer.cooldown=0.5"
  make = lambda total: make_config("teacher", total, cooldown)
  for total, step, said in ((20, 4, False), (20, 5, True), (8, 8, False)):
    path = claim(make("--config.total_steps=8"), tmp_path)
    caplog.clear()
    run_folder.write_config(path, make(f"--config.total_steps={total}"), step)
    assert (f"was 8 and is {total}" in caplog.text) == said


def test_a_folder_that_cannot_be_made(make_config, tmp_path):
  (tmp_path / "file").write_text("mine")
  for folder in (tmp_path / "file", tmp_path / "file" / "run"):
    with pytest.raises(UserError) as info:
      run_folder.open_for(make_config("teacher"), str(folder))
    assert str(folder) in one_line(info)
    assert info.value.exit_code == 1
  assert (tmp_path / "file").read_text() == "mine"


def test_a_config_that_cannot_be_written(make_config, tmp_path):
  """As on a full or read-only disk; tests may run as root, who may write."""
  (tmp_path / "config.json").mkdir()
  with pytest.raises(UserError) as info:
    run_folder.write_config(tmp_path, make_config("teacher"))
  assert "config.json" in one_line(info)


def test_loads_the_average_that_is_asked_for(reference, state_at):
  """Normalised, since an average of points on a sphere lies inside it."""
  config = workdir.load_config(reference)
  saved = state_at(reference, 12)
  for sigma_rel in (0.0, *config.ema):
    model, about = workdir.load(reference, sigma_rel)
    name = averaging.name(sigma_rel or config.ema[0])
    assert about["ema"] == name and about["step"] == 12
    assert configuration.diff(about["config"], config) == []
    path = f"ema['{name}']['denoiser']['conv_in']['weight']"
    average = magnitude.normalize_weights({"weight": saved[path]})
    np.testing.assert_allclose(
      model.params["denoiser"]["conv_in"]["weight"],
      average["weight"],
      rtol=1e-6,
    )
    gain = saved[f"ema['{name}']['denoiser']['out_gain']"]
    assert model.params["denoiser"]["out_gain"] == gain
    assert model.kind == "diffusion"
    assert model.codec == resolve.resolve(config).codec


def test_what_cannot_be_loaded(reference, make_config, tmp_path):
  with pytest.raises(UserError, match="is not a workdir: it has no config"):
    workdir.load(tmp_path / "nowhere")
  with pytest.raises(UserError, match="is not a workdir: it has no config"):
    workdir.load(tmp_path)
  with pytest.raises(UserError, match=r"keeps no EMA of 0.3; it has"):
    workdir.load(reference, 0.3)
  (tmp_path / "config.json").write_text('{"format": "of another program"}')
  with pytest.raises(UserError, match="its config.json is not a run's"):
    workdir.load(tmp_path)
  path = claim(make_config("teacher"), tmp_path / "run")
  with pytest.raises(UserError, match="has no checkpoint yet; train first"):
    workdir.load(path)
  (path / "checkpoints").mkdir()
  with pytest.raises(UserError, match="has no checkpoint yet; train first"):
    workdir.load(path)
  content = (path / "config.json").read_bytes()
  for damaged in (content[: len(content) // 2], b"\xff" + content):
    (path / "config.json").write_bytes(damaged)
    with pytest.raises(UserError, match=r"config\.json is damaged") as info:
      workdir.load(path)
    one_line(info)
  for field in ("run", "family"):
    changed = re.sub(f'("{field}": )"[a-z]+"', r'\1"mine"', content.decode())
    (path / "config.json").write_text(changed)
    with pytest.raises(UserError, match="is a run of 'mine'.*install"):
      workdir.load(path)


def student(make_config, teacher, *more):
  return make_config("scd", f"--config.teacher={teacher}", *more)


def test_the_teacher_is_noted_and_held_to_be_the_same(
  copy_at, make_config, tmp_path, caplog
):
  teacher, path = copy_at(4), tmp_path / "student"
  path.mkdir()
  config = student(make_config, teacher)
  model = initialization.load_teacher(
    resolve.resolve(config), path, begun=False
  )
  assert model.kind == "diffusion"
  noted = json.loads((path / "teacher.json").read_text())
  assert noted["workdir"] == str(teacher) and noted["step"] == 4
  assert noted["ema"] == averaging.name(config.ema[0])

  # The same weights in another place are the same teacher.
  moved = teacher.rename(tmp_path / "moved")
  config = student(make_config, moved)
  assert (
    initialization.load_teacher(resolve.resolve(config), path, begun=True)
    is not None
  )
  # The weights of another step are not.
  shutil.rmtree(moved / "checkpoints/4")
  with pytest.raises(ConfigError) as info:
    initialization.load_teacher(resolve.resolve(config), path, begun=True)
  text = one_line(info)
  assert "has changed since this run began" in text
  assert "step was 4" in text and "now 2" in text
  assert json.loads((path / "teacher.json").read_text()) == noted
  # Nor is another average.
  config = student(make_config, moved, f"--config.teacher_ema={config.ema[1]}")
  with pytest.raises(ConfigError, match="has changed since"):
    initialization.load_teacher(resolve.resolve(config), path, begun=True)
  # What is damaged says nothing.
  (path / "teacher.json").write_text("")
  with pytest.raises(UserError, match="cannot use .*teacher.json"):
    initialization.load_teacher(resolve.resolve(config), path, begun=True)
  # A run that does not know it any more goes on, and says so.
  (path / "teacher.json").unlink()
  assert initialization.load_teacher(resolve.resolve(config), path, begun=True)
  assert "teacher.json is missing" in caplog.text
  # A run that has nothing yet begins with what is there.
  assert (
    initialization.load_teacher(resolve.resolve(config), path, begun=False)
    is not None
  )
  assert json.loads((path / "teacher.json").read_text())["step"] == 2


def test_a_teacher_that_went_on_is_there_at_its_former_step(
  copy_at, make_config, tmp_path
):
  teacher = copy_at(4)
  before = resolve.resolve(student(make_config, teacher / "checkpoints/2"))
  initialization.load_teacher(before, tmp_path, begun=False)
  now = resolve.resolve(student(make_config, teacher))
  with pytest.raises(ConfigError, match=f"teacher={teacher}/checkpoints/2"):
    initialization.load_teacher(now, tmp_path, begun=True)
  initialization.load_teacher(before, tmp_path, begun=True)


def test_results_are_kept_where_no_training_removes_them(tmp_path):
  best = tmp_path / "run/best"
  best.mkdir(parents=True)
  for name in ("run", "run/checkpoints/7", "run/snapshots/7"):
    assert workdir.results_folder(tmp_path / name) == tmp_path / "run"
  assert workdir.results_folder(best) == best  # of no run that is known
  (best / "score.json").touch()
  assert workdir.results_folder(best) == tmp_path / "run"


@pytest.mark.parametrize(
  "change, named",
  [
    ("--config.network.channels=16", "conv_in/weight is (3, 3, 2, 8) there"),
    ("--config.network.channel_mult=(1,2)", "missing there and"),
    ("--config.network.num_blocks=2", "/weight is missing there and"),
    ("--config.data.num_classes=11", "num_classes is 10 there and 11 here"),
    ("--config.data.channels=3", "in_channels is 1 there and 3 here"),
    ("--config.sigma_d=0.25", "scaled as PixelCodec("),
    ("--config.data.mean=0.5", "scaled as PixelCodec("),
  ],
)
def test_a_teacher_that_does_not_fit(
  change, named, reference, make_config, tmp_path
):
  config = student(make_config, reference, change)
  with pytest.raises(ConfigError) as info:
    initialization.load_teacher(resolve.resolve(config), tmp_path, begun=False)
  assert named in one_line(info) and str(reference) in one_line(info)
  assert not list(tmp_path.iterdir())


def test_a_students_guidance_input_is_its_own(reference, make_config, tmp_path):
  config = student(
    make_config, reference, "--config.objective.guidance=sampled"
  )
  assert (
    initialization.load_teacher(resolve.resolve(config), tmp_path, begun=False)
    is not None
  )


def test_a_student_is_no_teacher(reference_student, make_config, tmp_path):
  config = student(make_config, reference_student)
  with pytest.raises(ConfigError, match="is not a diffusion teacher's workdir"):
    initialization.load_teacher(resolve.resolve(config), tmp_path, begun=False)


def test_checksums_differ_by_any_bit():
  params = {"a": np.arange(6, dtype=np.float32), "b": np.zeros(2)}
  first = checksum.of(params)
  assert first == checksum.of(jax.tree.map(np.copy, params))
  params["a"][3] = np.nextafter(params["a"][3], np.float32(9))
  assert first != checksum.of(params)
