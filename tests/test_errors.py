"""The end of a message about a name that does not exist."""

from scm_jax import errors


def test_nearest():
  names = ["train", "sample", "evaluate"]
  assert errors.nearest("trian", names) == "train"
  assert errors.nearest("evalute", names) == "evaluate"
  assert errors.nearest("zzz", names) is None


def test_hint():
  assert errors.hint("sampel", ["train", "sample"]) == (
    "did you mean 'sample'?"
  )
  assert errors.hint("zzz", ["a", "b"]) == "choose from a, b"
  assert errors.hint("zzz", iter("ab"), what="it has") == "it has a, b"
