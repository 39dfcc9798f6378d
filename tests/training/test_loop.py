"""The loop: what a run leaves, and that an interrupted one ends the same."""

import itertools
import json
import logging
import re

import chex
import numpy as np
import pytest
from PIL import Image

from scm_jax import configuration, files, networks, samplers
from scm_jax.data import pipeline, sources
from scm_jax.errors import UserError
from scm_jax.training import loop, program, workdir
from scm_jax.training.checkpoints import storage

STEPS = 12  # of the reference run


def test_workdir_of_a_run(reference, make_config, read_metrics):
  config = make_config("teacher", f"--config.total_steps={STEPS}")
  read = workdir.load_config(reference)
  assert configuration.diff(read, config) == []
  assert read.data.name == "scm_digits" and read.batch_size == 8

  lines = read_metrics(reference)
  assert [line["step"] for line in lines] == list(range(2, STEPS + 1, 2))
  for line in lines:
    assert all(np.isfinite(value) for value in line.values())
    assert {"loss", "mse", "output_rms", "gradient_norm"} <= line.keys()
    assert line["nonfinite_samples"] == line["nonfinite_gradients"] == 0
    # One pass forward, and a backward one, for each of 8 samples.
    assert line["evaluations"] == 3 * 8 * line["step"]
    assert any(name.startswith("loss/t=") for name in line)
  raw = [json.loads(x) for x in (reference / "metrics.jsonl").open()]
  assert all(line["steps_per_second"] > 0 for line in raw)
  assert all(
    line["images_per_second"] == pytest.approx(8 * line["steps_per_second"])
    for line in raw
  )

  picture = np.asarray(Image.open(reference / "samples/step_00000012.png"))
  assert picture.dtype == np.uint8 and picture.std() > 0
  assert [p.name for p in (reference / "samples").iterdir()] == [
    "step_00000012.png"
  ]


@pytest.mark.parametrize("count", [0, 5])
def test_batches_that_end(make_config, steps_kept, tmp_path, count):
  """Nothing is said of a signal, and the checkpoint before them is there."""
  config = make_config("teacher", "--config.checkpoint_every=2")

  def few(start):
    stream = pipeline.Batches(
      sources.open_source(config.data), batch_size=config.batch_size, seed=0
    )
    return itertools.islice(stream.iterate(start), count)

  with pytest.raises(UserError, match=f"batches end after step {count} of"):
    loop.train(config, str(tmp_path), few)
  assert steps_kept(tmp_path)[-1:] == ([4] if count else [])


@pytest.mark.parametrize(
  ("field", "change", "said"),
  [
    ("image", lambda x: x / np.float32(255), "image of float32"),
    ("image", lambda x: x[:4], "image of uint8"),
    ("image", lambda x: x[:, :6, :6], "image of uint8"),
    ("label", lambda x: x + 1000, "the label 100.*0 to 9"),
    ("label", lambda x: x - 10, "the label -"),
    ("label", lambda x: x[:, None], "whole numbers"),
    ("label", lambda x: x.astype(float), "whole numbers"),
  ],
)
def test_batches_that_do_not_fit(
  make_config, train, tmp_path, field, change, said
):
  replaced = lambda step, batch: batch | {field: change(batch[field])}
  with pytest.raises(UserError, match=said):
    train(make_config("teacher"), tmp_path, replaced)


@pytest.mark.parametrize(
  ("change", "said"),
  [
    (lambda batch: (batch["image"], batch["label"]), "is a tuple"),
    (lambda batch: {"images": batch["image"]}, "is a dict of images"),
  ],
)
def test_batches_of_another_form(make_config, train, tmp_path, change, said):
  with pytest.raises(UserError, match=said):
    train(make_config("teacher"), tmp_path, lambda step, batch: change(batch))


@pytest.mark.parametrize("off", [False, True])
def test_data_of_another_scale_are_remarked_on(
  make_config, train, tmp_path, caplog, off
):
  """With the numbers that would be right for the batch."""
  few = "--config.total_steps=1", "--config.batch_size=32"
  config = make_config("teacher", *few)
  dark = lambda step, batch: batch | {"image": batch["image"] // 8}
  assert train(config, tmp_path, dark if off else lambda step, batch: None)
  found = [text for text in caplog.messages if "the first batch of" in text]
  assert len(found) == off
  if off:
    seen = re.search(r"mean (\S+) and the deviation (\S+),", found[0])
    again = make_config(
      "teacher",
      *few,
      f"--config.data.mean={seen[1]}",
      f"--config.data.std={seen[2]}",
    )
    caplog.clear()
    assert train(again, tmp_path / "again", dark)
    assert not any("the first batch of" in text for text in caplog.messages)


def test_no_grid_of_samples(make_config, train, tmp_path):
  config = make_config(
    "teacher", "--config.sample.num=0", "--config.total_steps=2"
  )
  assert train(config, tmp_path)
  assert not (tmp_path / "samples").exists()


def test_two_processes_do_not_train_in_one_workdir(
  make_config, train, tmp_path
):
  with files.locked(tmp_path, "another training"):
    with pytest.raises(UserError, match="another training works in"):
      train(make_config("teacher"), tmp_path)
  assert not list(tmp_path.glob("*"))[1:]  # but the lock


@pytest.mark.parametrize("at", [3, 6], ids=["between", "at the end"])
def test_a_score_that_fails_loses_no_step(
  make_config, shared_steps, steps_kept, tmp_path, at
):
  """The run goes on from there, and takes the score first."""
  config = make_config("teacher", "--config.evaluate_every=3")
  config.total_steps = 6
  failing, scored = [at], []

  def evaluate(model):
    scored.append(len(scored))
    if 3 * len(scored) in failing:
      raise UserError("cannot read the reference")
    return {"kid": 1.0}

  def batches(start):
    source = sources.open_source(config.data)
    size = config.batch_size
    return pipeline.Batches(source, batch_size=size, seed=0).iterate(start)

  train = lambda: loop.train(config, str(tmp_path), batches, evaluate)
  with shared_steps():
    with pytest.raises(UserError, match="the reference"):
      train()
    assert steps_kept(tmp_path)[-1] == at
    failing.clear()
    assert train()
    rows = map(json.loads, (tmp_path / "metrics.jsonl").open())
    assert [row["step"] for row in rows if "kid" in row] == [3, 6]
    assert len(scored) == 3
    assert train() and len(scored) == 3  # nothing is owed any more
    # A damaged note counts as one, and is cleared.
    (tmp_path / "owed.json").write_text("{")
    assert train() and len(scored) == 4
    assert not (tmp_path / "owed.json").exists()


def test_a_diverged_state_is_not_saved_for_its_samples(
  make_config, train, steps_kept, tmp_path
):
  config = make_config("teacher", "--config.sample_every=3")
  config.divergence_limit = 0.0
  with pytest.raises(UserError, match="diverged by step 3"):
    train(config, tmp_path)
  assert 3 not in steps_kept(tmp_path)


def test_a_run_does_not_save_into_a_workdir_that_was_removed(
  make_config, train, tmp_path, monkeypatch
):
  """Where another run may have begun."""
  flags = "--config.total_steps=4", "--config.checkpoint_every=2"
  save = storage.Checkpoints.save

  def save_and_remove(self, state):
    save(self, state)
    (tmp_path / "config.json").unlink()

  monkeypatch.setattr(storage.Checkpoints, "save", save_and_remove)
  with pytest.raises(UserError, match=r"config\.json is gone"):
    train(make_config("teacher", *flags), tmp_path)
  assert not (tmp_path / "checkpoints" / "4").exists()


def test_tensorboard_has_scalars_and_the_samples(reference):
  from tensorboard.backend.event_processing import event_accumulator

  events = event_accumulator.EventAccumulator(str(reference))
  events.Reload()
  assert {"loss", "output_rms", "learning_rate", "samples"} <= set(
    events.Tags()["tensors"]
  )
  [samples] = events.Tensors("samples")
  assert samples.step == STEPS
  # Width, height, and one encoded picture.
  width, height, picture = samples.tensor_proto.string_val
  assert picture.startswith(b"\x89PNG") and int(width) and int(height)


@pytest.mark.parametrize("how", ["fewer steps", "crash", "filter order"])
def test_continued_equals_uninterrupted(
  how,
  reference,
  train,
  train_until,
  make_config,
  state_at,
  assert_equal_states,
  read_metrics,
  tmp_path,
):
  """5 is not a multiple of checkpoint_every: the crash loses an update."""
  if how == "crash":
    train_until(6, make_config("teacher"), tmp_path)
  else:
    assert train(make_config("teacher", "--config.total_steps=4"), tmp_path)
  order = "OHWI" if how == "filter order" else "HWIO"
  rest = make_config("teacher", f"--config.sharding.filter_order={order}")
  assert train(rest, tmp_path)
  assert_equal_states(state_at(tmp_path, 8), state_at(reference, 8))
  assert read_metrics(tmp_path) == read_metrics(reference)[:4]


def test_the_metrics_of_a_killed_run_lack_no_step(
  train, train_until, make_config, read_metrics, tmp_path
):
  """Where lines are of other steps than checkpoints."""
  config = make_config("teacher", "--config.log_every=3")
  assert train(config, tmp_path / "whole")
  train_until(6, config, tmp_path / "killed")
  assert train(config, tmp_path / "killed")
  whole, killed = (
    read_metrics(tmp_path / name) for name in ("whole", "killed")
  )
  assert whole == killed
  assert [line["step"] for line in whole] == [2, 3, 4, 6, 8]


@pytest.mark.parametrize("order", ["HWIO", "OHWI"])
def test_students_continue_to_the_bit(
  order,
  reference,
  reference_student,
  train,
  train_until,
  make_config,
  state_at,
  assert_equal_states,
  read_metrics,
  tmp_path,
):
  config = make_config(
    *("scd", f"--config.teacher={reference}"),
    f"--config.sharding.filter_order={order}",
  )
  train_until(6, config, tmp_path)
  assert train(config, tmp_path)
  assert_equal_states(state_at(tmp_path, 8), state_at(reference_student, 8))
  assert read_metrics(tmp_path) == read_metrics(reference_student)


@pytest.mark.slow
def test_a_program_from_the_cache_is_the_one_compiled_anew(
  reference,
  own_steps,
  train_until,
  make_config,
  state_at,
  assert_equal_states,
  compile_into,
  tmp_path,
):
  """The other runs here mostly read theirs from the compilation cache."""
  compile_into(None)
  train_until(6, make_config("teacher"), tmp_path)
  assert_equal_states(state_at(tmp_path, 4), state_at(reference, 4))


def test_raised_total_steps_continue(copy_at, train, make_config, steps_kept):
  folder = copy_at(8)
  config = make_config("teacher", "--config.total_steps=10")
  assert train(config, folder)
  assert steps_kept(folder)[-1] == 10
  assert workdir.load_config(folder).total_steps == 10


def test_complete_run_says_so_and_does_nothing(
  copy_at, train, make_config, monkeypatch, caplog
):
  folder = copy_at(8)
  before = (folder / "metrics.jsonl").read_bytes()
  monkeypatch.setattr(loop.program, "make", None)  # cannot be called
  caplog.set_level(logging.INFO)
  assert train(make_config("teacher"), folder)
  assert f"{folder} is complete, at step 8" in caplog.text
  assert (folder / "metrics.jsonl").read_bytes() == before


def test_one_compilation_of_the_step(
  train, train_until, make_config, monkeypatch, compile_into, tmp_path
):
  """In a run that continues; and it is the program of the run before."""
  compiled, folder = tmp_path / "compiled", tmp_path / "run"
  programs = lambda: set(compiled.glob("jit_train_step-*-cache"))
  build_objective = program.objective.build

  def traced_once(*args):
    goal = build_objective(*args)
    loss = lambda *args: goal.loss(*args)  # chex wants a function
    return goal._replace(loss=chex.assert_max_traces(loss, n=1))

  compile_into(compiled)
  train_until(6, make_config("teacher"), folder)
  before = programs()
  assert before
  chex.clear_trace_counter()
  monkeypatch.setattr(program.objective, "build", traced_once)
  assert train(make_config("teacher"), folder)
  assert programs() == before


def test_keeps_the_last_and_every_so_many(
  copy_at, train, make_config, steps_kept
):
  folder = copy_at(2)
  config = make_config(
    "teacher", "--config.keep_checkpoints=2", "--config.keep_every=4"
  )
  assert train(config, folder)
  assert steps_kept(folder) == [4, 6, 8]


@pytest.mark.slow
def test_samples_as_often_as_asked_by_one_program(
  copy_at, train, make_config, monkeypatch
):
  """The averages change, the program that draws from them does not."""
  traced, draw_noise = [], samplers.draw_noise

  def counted(*args):
    traced.append(args)
    return draw_noise(*args)

  monkeypatch.setattr(samplers, "draw_noise", counted)
  networks.build.cache_clear()  # forgets the programs of other tests
  folder = copy_at(2)
  assert train(make_config("teacher", "--config.sample_every=3"), folder)
  pictures = {
    step: (folder / f"samples/step_{step:08d}.png").read_bytes()
    for step in (3, 6, 8)
  }
  assert len(set(pictures.values())) == 3
  assert len(list((folder / "samples").iterdir())) == 4  # the reference's too
  assert len(traced) == 1
