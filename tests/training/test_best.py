"""The best model so far is there whenever a run is killed."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from etils import epath

from scm_jax.errors import UserError
from scm_jax.interop import export_folder, safetensors
from scm_jax.training import resolve, workdir
from scm_jax.training.checkpoints import best


@pytest.fixture(scope="module")
def offer(make_config):
  """`offer(path, step, score)`: a model whose parameters tell the step."""
  config = make_config("teacher")
  shapes = workdir.param_shapes(config)
  fill = lambda x: jax.tree.map(lambda s: np.full(s.shape, x, s.dtype), shapes)
  model = resolve.model(resolve.resolve(config), fill(1.0))

  def run(path, step, score, config=config, **others):
    params = {"denoiser": fill(step)["denoiser"]}
    offered = dataclasses.replace(model, params=params)
    return best.keep_if_best(
      path, config, offered, step, others or {"kid": score}
    )

  return run


def _step(path):
  """The step of the model in `best/`, which must be whole."""
  folder = path / best.FOLDER
  step = export_folder.description(folder)["step"]
  tensors, _ = safetensors.read(folder / export_folder.WEIGHTS)
  assert tensors and all((t == step).all() for t in tensors.values())
  assert best.kept_score(path, "kid") == 1 / step
  return step


@pytest.mark.parametrize("done", [False, True], ids=["before", "after"])
def test_killed_at_each_operation(offer, tmp_path, killed_at, done, exchange):
  number, begun = 0, [""]
  while len(begun) >= number:
    number += 1
    path = epath.Path(tmp_path) / str(number)
    assert offer(path, 1, 1.0) and _step(path) == 1
    with killed_at(number, done) as begun:
      assert offer(path, 2, 0.5)
    best.recover(path)
    kept = _step(path)
    assert [p.name for p in path.iterdir()] == ["best"]
    # The run goes on from before, and finds the same again.
    assert offer(path, 2, 0.5) == (kept == 1)
    assert _step(path) == 2
    assert not offer(path, 3, 0.6) and offer(path, 4, 0.25)
    assert _step(path) == 4
  assert begun.count("rename") == (0 if exchange else 2)
  assert begun.count("rmtree") == 1


@pytest.mark.parametrize("number", range(1, 7))
def test_the_first_one_is_whole_or_not_there(
  offer, tmp_path, killed_at, number
):
  path = epath.Path(tmp_path) / "run"
  with killed_at(number) as begun:
    offer(path, 1, 1.0)
  best.recover(path)
  if best.kept_score(path, "kid") is None:
    assert begun[number - 1 :] != ["rename"]
    assert not path.exists() or not list(path.iterdir())
    assert offer(path, 1, 1.0)
  assert _step(path) == 1


def test_the_previous_folder_of_an_older_version_is_put_back(offer, tmp_path):
  """As after a kill between its two renames."""
  path = epath.Path(tmp_path)
  assert offer(path, 1, 1.0)
  (path / "best").rename(path / "best.previous")
  best.recover(path)
  assert _step(path) == 1


def test_a_disk_that_fails_keeps_the_one_before(offer, tmp_path, monkeypatch):
  path = epath.Path(tmp_path)
  assert offer(path, 1, 1.0)
  with monkeypatch.context() as patch:

    def fail(*args):
      raise OSError(28, "No space left on device")

    patch.setattr(safetensors, "write", fail)
    with pytest.raises(UserError, match="best: No space left on device"):
      offer(path, 2, 0.5)
  assert _step(path) == 1


def test_scores_of_other_settings_are_not_compared(
  make_config, offer, tmp_path, caplog
):
  path = epath.Path(tmp_path)
  assert offer(path, 1, 1.0) and not offer(path, 2, 1.5)
  config = make_config("teacher", "--config.evaluate.num=99")
  assert offer(path, 2, 1.5, config=config)
  assert "score of other settings" in caplog.text
  assert not offer(path, 3, 2.0, config=config)
  # What the score does not depend on.
  config.sample.num, config.sample.batch_size = 20, 7
  config.evaluate.weights = ("inception=there",)
  assert not offer(path, 3, 2.0, config=config)


def test_what_a_score_of_an_earlier_version_meant(offer, tmp_path):
  """It was taken without limits of guidance, which had no fields."""
  path = epath.Path(tmp_path)
  assert offer(path, 1, 1.0)
  file = path / "best" / "score.json"
  record = json.loads(file.read_text())
  for name in ("interval", "channels"):
    del record["how"][f"sample.guidance_{name}"]
  file.write_text(json.dumps(record))
  none = {"sample.guidance_channels": 0}
  guided = lambda *x: none | {"sample.guidance_interval": list(x)}
  assert best.kept_score(path, "kid", guided()) == 1.0
  assert best.kept_score(path, "kid", guided(0.3, 3.0)) is None


def test_a_score_that_is_no_number_is_never_the_best(offer, tmp_path, caplog):
  path = epath.Path(tmp_path)
  assert offer(path, 1, 1.0)
  assert not offer(path, 2, np.nan) and "kid of step 2" in caplog.text
  assert _step(path) == 1


def test_the_best_is_decoded_as_its_run_is(make_config, offer, tmp_path):
  path = epath.Path(tmp_path)
  config = make_config("teacher")
  config.data.autoencoder = str(tmp_path / "vae")
  assert offer(path, 1, 1.0) and offer(path, 2, 1.5, config=config)
  with pytest.raises(UserError, match=rf"there is no {tmp_path}/vae"):
    export_folder.autoencoder(path / "best")
  (tmp_path / "vae").mkdir()
  found = export_folder.autoencoder(path / "best")
  assert found == str(tmp_path / "vae")


@pytest.mark.parametrize("text", ["null", "", '{"scores": 3}'])
def test_a_damaged_score_makes_way(offer, tmp_path, caplog, text):
  path = epath.Path(tmp_path)
  assert offer(path, 1, 1.0)
  (path / "best" / "score.json").write_text(text)
  assert offer(path, 2, 1.5) and "score.json is damaged" in caplog.text


def test_a_best_by_another_score_is_compared_by_this_one(offer, tmp_path):
  """As of a run begun when the Fréchet distance chose."""
  path = epath.Path(tmp_path)
  assert offer(path, 1, None, fd=0.5, kid=1.0)
  assert best.kept_score(path, "fd") == 0.5
  assert offer(path, 2, None, kid=0.5, fd=0.9)  # the better one by KID
  assert not offer(path, 3, None, kid=0.6, fd=0.1)
  assert _step(path) == 2
  assert offer(path, 4, None, other=7.0)  # of which nothing is known
