"""The command `evaluate`: seeds, choices, files, kills and devices."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from scm_jax import files
from scm_jax.evaluation.dataset import ImageDataset
from scm_jax.metrics import reference_files
from scm_jax.reporting import evaluation_figure
from scm_jax.sampler import Sampler

NUM = 150


@pytest.fixture
def evaluate(printed, runs, score_cache, tmp_path):
  """`evaluate(*flags)`: the report on pixels of a student's samples.

  Its picture, which test_evaluate.py looks at, is not drawn.
  """

  def draw(path, *args, **kwargs):
    path.write_bytes(b"")
    return path

  def run(*flags, out=tmp_path / "out", workdir="scd"):
    if not any(flag.startswith("--cache") for flag in flags):
      flags = (*flags, f"--cache={score_cache}")
    with pytest.MonkeyPatch.context() as patch:
      patch.setattr(evaluation_figure, "write_figure", draw)
      text = printed(*_argv(runs, out, workdir), *flags)
    return json.loads((out / "report.json").read_text()), text

  return run


def _argv(runs, out, workdir="scd"):
  argv = ["evaluate", f"--workdir={runs / workdir}", "--features=pixels"]
  return [*argv, "--steps=2", f"--num={NUM}", f"--out={out}"]


@pytest.mark.slow
def test_choices_are_made_on_other_samples_and_reported_over_seeds(
  evaluate, caplog
):
  more = "--t-mid=0.5,1.5", "--ema=0.05,0.1", "--select-num=60", "--seeds=3,7"
  report, text = evaluate(*more)
  [run] = report["runs"]
  table = run["selection"]["candidates"]
  assert [(c["t_mid"], c["ema"]) for c in table] == [
    (t, ema) for ema in ("0.050", "0.100") for t in (0.5, 1.5)
  ]
  assert run["selection"]["num"] == 60 and run["selection"]["seed"] == 8
  best = min(table, key=lambda candidate: candidate["fd"])
  assert (run["t_mid"], run["ema"]) == (best["t_mid"], best["ema"])
  assert len({candidate["fd"] for candidate in table}) > 1
  assert "chosen by the fd pixels of 60 other images (seed 8)" in text

  values = [found["fd"]["pixels"] for found in run["by_seed"]]
  assert [found["seed"] for found in run["by_seed"]] == run["seeds"] == [3, 7]
  assert run["seed"] == 3 and values[0] != values[1]
  assert run["fd"]["pixels"] == pytest.approx(np.mean(values))
  assert run["fd_sd"]["pixels"] == pytest.approx(np.std(values, ddof=1))
  assert run["fd_min"]["pixels"] == min(values)
  shown = f"{np.mean(values):.3f} ± {np.std(values, ddof=1):.3f}"
  assert shown in text and f"{min(values):.3f}" in text
  assert "Classes of the samples: random" in text
  # Few samples favour candidates that vary less, which is said everywhere.
  assert any("of 60 images, fewer than the 150" in w for w in run["warnings"])
  assert "Warning: chosen by the Fréchet distance of 60 images" in text
  assert "fewer than the 150" in caplog.text
  assert "Warning: pixels: 150 samples for 64 features" in text


@pytest.mark.parametrize(
  "more, by, num",
  [
    (("--select-by=kid", "--select-num=60"), "kid", 60),
    pytest.param((), "fd", NUM, marks=pytest.mark.slow),
  ],
)
def test_choices_by_kid_and_at_full_size_need_no_warning(
  evaluate, more, by, num
):
  report, _ = evaluate("--t-mid=0.5,1.5", *more)
  [run] = report["runs"]
  found = run["selection"]
  assert (found["by"], found["num"]) == (f"{by} pixels", num)
  for candidate in found["candidates"]:  # the whole curve, not its best point
    assert {"fd", "precision", "recall"} <= candidate.keys()
  best = min(found["candidates"], key=lambda candidate: candidate[by])
  assert run["t_mid"] == best["t_mid"]
  assert not any("fewer than" in line for line in run["warnings"])


@pytest.mark.slow
def test_old_scores_can_be_had_by_flags(evaluate):
  """The classes that were the default, and a teacher's scale and solver."""
  flags = "--labels=data", "--teacher-steps=3,1", "--guidance=1"
  report, _ = evaluate(*flags, workdir="teacher")
  found = [(run["steps"], run["guidance"]) for run in report["runs"]]
  assert found == [(3, 1.0), (1, 1.0)]
  assert {run["labels"] for run in report["runs"]} == {"data"}


OWN = {"guidance": 1.5, "solver": "dpm_solver", "solver_steps": 3}
OWN |= {"t_mid": 0.9, "sigma_max": 40.0, "guidance_interval": (0.3, 3.0)}
OWN["guidance_channels"] = 1


@pytest.mark.slow
def test_all_settings_are_the_configs(evaluate, configured):
  """Of a teacher that is guided."""
  report, text = evaluate(workdir=configured("teacher", **OWN))
  [many, one] = report["runs"]
  used = {"guidance": 1.5, "sigma_max": 40.0, "dtype": "float32"}
  used |= {"guidance_interval": "0.3:3.0", "guidance_channels": 1}
  assert used.items() <= many.items() and used.items() <= one.items()
  # Of the noise levels 40, 1.43 and 0.002 one is guided.
  assert (many["steps"], many["nfe"], many["solver"]) == (3, 4, "dpm_solver")
  assert (one["steps"], one["nfe"]) == (1, 1)
  assert "solver dpm_solver, sigma_max 40.0, dtype float32" in text


@pytest.mark.slow
def test_flags_say_otherwise_and_a_student_cannot_be_guided(
  evaluate, configured
):
  changed = "--guidance=2", "--solver=heun", "--teacher-steps=2"
  changed = *changed, "--sigma-max=80", "--dtype=bfloat16"
  other, _ = evaluate(*changed, workdir=configured("teacher", **OWN))
  [run] = other["runs"]
  found = [run[key] for key in ("guidance", "solver", "steps", "nfe")]
  assert found == [2.0, "heun", 2, 3]  # at 80 and 0.002, which are not guided
  assert (run["sigma_max"], run["dtype"]) == (80.0, "bfloat16")

  [run] = evaluate(workdir=configured("scd", **OWN))[0]["runs"]
  assert (run["guidance"], run["t_mid"], run["sigma_max"]) == (1.0, 0.9, 40.0)


@pytest.mark.slow
def test_the_configs_reference_is_the_default(evaluate, configured, tmp_path):
  file = tmp_path / "reference.npy"
  images = np.random.default_rng(0).integers(0, 256, (80, 8, 8, 1), np.uint8)
  np.save(file, images)
  folder = configured("scd", section="evaluate", reference=str(file))
  report, _ = evaluate(workdir=folder)
  assert report["reference"]["dataset"] == str(file)
  assert "random, of all classes alike" in report["reference"]["labels"]
  report, _ = evaluate("--reference=", workdir=folder)
  assert report["reference"]["dataset"] == "scm_digits"


def test_samples_kept_are_a_reference(evaluate, tmp_path):
  """Scored against themselves, their distance is nothing."""
  made, text = evaluate("--labels=uniform", "--save-samples", "--save-every=1")
  assert "Classes of the samples: balanced" in text
  assert made["runs"][0]["labels"] == "balanced"  # of which that was a name
  file = tmp_path / "out" / "samples" / "scd_2_steps_seed_0.npy"
  assert reference_files.read(file).images.shape == (NUM, 8, 8, 1)
  again, _ = evaluate(
    f"--reference={file}", "--labels=balanced", out=tmp_path / "again"
  )
  [run] = again["runs"]
  assert run["fd"]["pixels"] < 1e-6 and run["num_reference"] == NUM
  assert run["coverage"]["pixels"] == 1.0
  assert again["reference"]["dataset"] == str(file)
  assert again["reference"]["images"] == NUM


def test_kept_samples_are_of_the_report_beside_them(evaluate, tmp_path):
  """Whatever was drawn into that folder before."""
  file = tmp_path / "out" / "samples" / "scd_2_steps_seed_0.npy"
  evaluate("--t-mid=1.1", "--save-samples")
  first = np.load(file)
  evaluate("--t-mid=0.5")
  evaluate("--t-mid=0.5", "--save-samples")
  second = np.load(file)
  assert np.any(first != second)
  evaluate("--t-mid=1.1", "--save-samples")
  np.testing.assert_array_equal(np.load(file), first)


def test_one_evaluation_works_in_a_folder(runs, refused, tmp_path):
  out = tmp_path / "out"
  with files.locked(out / "evaluation_partial", "a test"):
    said = refused(
      *(1, "evaluate", f"--workdir={runs}/scd", f"--out={out}"),
      *("--features=pixels", f"--num={NUM}"),
    )
  assert f"another evaluation works in {out}/evaluation_partial" in said


def test_a_report_on_a_dataset_that_has_changed_is_made_anew(
  evaluate, monkeypatch, tmp_path
):
  first, _ = evaluate()
  monkeypatch.setattr(ImageDataset, "fingerprint", lambda self: "another")
  again, _ = evaluate()
  assert again["reference"]["fingerprint"] == "another"
  kept = (tmp_path / "out" / "report.previous.json").read_text()
  assert json.loads(kept) == first


def test_other_sampling_in_the_config_is_another_question(evaluate, configured):
  folder = configured("scd", t_mid=0.9)
  assert evaluate(workdir=folder)[0]["runs"][0]["t_mid"] == 0.9
  config = json.loads((folder / "config.json").read_text())
  config["sample"]["t_mid"] = 0.5
  (folder / "config.json").write_text(json.dumps(config))
  assert evaluate(workdir=folder)[0]["runs"][0]["t_mid"] == 0.5


def test_too_few_images_are_refused_before_any_is_drawn(
  runs, refused, monkeypatch, tmp_path
):
  def draw(*args, **kwargs):
    raise AssertionError

  monkeypatch.setattr(Sampler, "draw", draw)
  file = tmp_path / "few.npy"
  np.save(file, np.zeros((30, 8, 8, 1), np.uint8))
  said = refused(1, *_argv(runs, tmp_path / "out"), f"--reference={file}")
  assert "features 'pixels': 30 samples are too few" in said


@pytest.mark.slow
def test_reference_statistics_are_cached(evaluate, tmp_path, caplog):
  caplog.set_level("INFO")
  cache = f"--cache={tmp_path / 'cache'}"
  first, _ = evaluate(cache)
  assert "reference: 1797 images of scm_digits" in caplog.text
  again, _ = evaluate(cache, "--steps=1", out=tmp_path / "again")
  assert "statistics of scm_digits are cached" in caplog.text
  assert again["reference"] == first["reference"]
  [pixels] = (tmp_path / "cache").glob("reference_pixels_*.npz")
  pixels.rename(tmp_path / "pixels")
  pixels.write_bytes(b"PK\3\4")
  second, _ = evaluate(cache, out=tmp_path / "second")
  assert pixels.name in caplog.text and second == first
  assert pixels.read_bytes() == (tmp_path / "pixels").read_bytes()


def _command(argv, **environment):
  variables = {"JAX_PLATFORMS": "cpu", **os.environ, **environment}
  argv = [sys.executable, "-m", "scm_jax", *map(str, argv)]
  return subprocess.Popen(argv, env=variables, stderr=subprocess.PIPE)


@pytest.mark.slow
def test_killed_outright_it_ends_with_the_same_bytes(
  evaluate, runs, tmp_path, caplog
):
  """And so on eight devices, to rounding."""
  caplog.set_level("INFO")
  flags = ["--batch-size=4", "--save-every=1"]
  job = _command([*_argv(runs, tmp_path / "killed"), *flags])
  folder = tmp_path / "killed" / "evaluation_partial"
  while not list(folder.glob("*/sums.npz")):
    assert job.poll() is None, job.stderr.read().decode()
    time.sleep(0.01)
  job.send_signal(signal.SIGKILL)
  job.communicate()
  assert not (tmp_path / "killed" / "report.json").exists()
  evaluate(*flags, out=tmp_path / "killed")
  assert "resuming after" in caplog.text
  assert not folder.exists()
  caplog.clear()
  whole, _ = evaluate(*flags, out=tmp_path / "whole")
  assert "resuming" not in caplog.text
  content = [
    (tmp_path / out / "report.json").read_bytes() for out in ("killed", "whole")
  ]
  assert content[0] == content[1]
  job = _command(_argv(runs, tmp_path / "eight"), JAX_NUM_CPU_DEVICES="8")
  _, err = job.communicate()
  assert job.returncode == 0, err.decode()
  found = json.loads((tmp_path / "eight" / "report.json").read_text())
  for metric in ("fd", "kid", "precision", "recall", "density", "coverage"):
    value = whole["runs"][0][metric]["pixels"]
    assert found["runs"][0][metric]["pixels"] == pytest.approx(value, abs=1e-3)


@pytest.mark.parametrize(
  "more, code, said",
  [
    (["--guidance=1,2"], 2, "was trained without guidance as an input"),
    (["--guidance=x"], 2, "--guidance: 'x': give numbers"),
    (["--guidance-interval=0.3:3"], 2, "no diffusion model is guided"),
    (["--guidance-channels=1"], 2, "--guidance-channels has no effect"),
    (["--seeds=1,1"], 2, "--seeds has a number twice"),
    (["--t-mid=2"], 2, "--t-mid=2: a time must lie between"),
    (["--features=judge,random", "--t-mid=0.5,1.5"], 2, "nothing is selected"),
    (["--select-num=1"], 2, "--select-num is 1; it must be at least 2"),
    (
      ["--select-by=inception_score", "--t-mid=0.5,1.5"],
      2,
      "the features of pixels do not give this score; give one of fd",
    ),
    (["--keep=5"], 2, "--keep"),
    (["--weights=inception"], 2, "give NAME=FILE"),
    (["--features=inception"], 2, "--weights=inception=FILE"),
    (
      ["--features=inception", "--weights=inception=no.pth"],
      1,
      "no weights of 'inception' at no.pth",
    ),
    (["--reference=no.npz"], 1, "cannot read no.npz"),
    (["--num=40"], 1, "'pixels': 40 samples are too few"),
  ],
)
def test_mistakes(more, code, said, refused, runs, tmp_path):
  err = refused(code, *_argv(runs, tmp_path), *more)
  assert said in err
  assert not (tmp_path / "report.json").exists()
