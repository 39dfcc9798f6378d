"""Near misses get the nearest real name, far ones the list."""

from scm_jax import spelling


def test_nearest():
  names = ["train", "sample", "evaluate"]
  assert spelling.nearest("trian", names) == "train"
  assert spelling.nearest("evalute", names) == "evaluate"
  assert spelling.nearest("zzz", names) is None


def test_hint():
  assert spelling.hint("sampel", ["train", "sample"]) == (
    "did you mean 'sample'?"
  )
  assert spelling.hint("zzz", ["a", "b"]) == "choose from a, b"
  assert spelling.hint("zzz", iter("ab"), what="it has") == "it has a, b"
