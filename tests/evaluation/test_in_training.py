"""What scores in training reuse, and what they are against."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scm_jax.cli import configs
from scm_jax.defaults import get_defaults
from scm_jax.errors import ConfigError, UserError
from scm_jax.evaluation import in_training
from scm_jax.training import resolve, workdir

CONFIGS = pathlib.Path(__file__).parents[2] / "configs"


@pytest.mark.parametrize("folder", ("gs://bucket/run", "gs://bucket/other"))
def test_a_bucket_is_not_taken_for_a_folder(folder, tmp_path, monkeypatch):
  monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
  cache = in_training._cache(folder)
  assert cache.parent == tmp_path
  assert cache == in_training._cache(folder) != in_training._cache("gs://b/c")


def test_a_folder_holds_its_own_cache(tmp_path):
  assert in_training._cache(str(tmp_path)) == tmp_path / "features"


@pytest.mark.parametrize(
  "name, reference, warned",
  [
    ("imagenet512", "", True),  # latents, decoded or as previews
    ("imagenet512", "real.npy", False),
    ("digits", "", False),
  ],
)
def test_decoded_latents_are_no_real_images(
  name, reference, warned, data_dir, tmp_path, caplog
):
  """Which is said once, before the first score."""
  file = f"{CONFIGS}/{name}.py:run=teacher,tiny"
  config = configs.parse_config(
    [f"--config={file}"]
  ).copy_and_resolve_references()
  if reference:
    rng = np.random.default_rng(0)
    config.evaluate.reference = str(tmp_path / reference)
    np.save(tmp_path / reference, rng.integers(0, 256, (9, 8, 8, 3), np.uint8))
  shapes = workdir.param_shapes(config)
  zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
  model = resolve.model(resolve.resolve(config), zeros)
  _, known = in_training.Evaluation(config, str(tmp_path))._make(model)
  assert bool(known.warnings) == warned
  assert ("decoded latents, not real images" in caplog.text) == warned


@pytest.mark.parametrize("name", ["/nowhere/images.npz", "no_such_dataset"])
def test_a_reference_is_looked_for_at_once(name, tmp_path, data_dir):
  config = get_defaults()
  config.data.name, config.data.data_dir = "scm_digits", str(data_dir)
  config.evaluate.reference = name
  with pytest.raises(UserError, match=name):
    in_training.Evaluation(config, str(tmp_path))


def test_no_best_weights_are_chosen_by_a_judge(tmp_path):
  file = f"{CONFIGS}/digits.py:run=teacher,tiny"
  judged = "--config.evaluate.features=('pixels','judge')"
  config = configs.parse_config([f"--config={file}", judged])
  with pytest.raises(ConfigError, match="has 'judge', by which nothing is"):
    in_training.Evaluation(config, str(tmp_path))
