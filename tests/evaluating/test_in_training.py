"""Where scores in training keep what they reuse."""

import pytest

from scm_jax.evaluating import in_training


@pytest.mark.parametrize("folder", ("gs://bucket/run", "gs://bucket/other"))
def test_a_bucket_is_not_taken_for_a_folder(folder, tmp_path, monkeypatch):
  monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
  cache = in_training._cache(folder)
  assert cache.parent == tmp_path
  assert cache == in_training._cache(folder) != in_training._cache("gs://b/c")


def test_a_folder_holds_its_own_cache(tmp_path):
  assert in_training._cache(str(tmp_path)) == tmp_path / "features"
