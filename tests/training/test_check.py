"""Checks of the tangent while a run trains."""

import pytest

pytestmark = pytest.mark.slow


def errors(lines):
  """The check's lines, by step."""
  return {
    line["step"]: {k: v for k, v in line.items() if k.startswith("tangent_")}
    for line in lines
    if any(name.startswith("tangent_error/") for name in line)
  }


def test_a_check_changes_nothing(
  reference,
  reference_student,
  train,
  make_config,
  read_metrics,
  state_at,
  assert_equal_states,
  tmp_path,
):
  """And finds nothing in float32."""
  config = make_config(
    *("scd", f"--config.teacher={reference}"),
    "--config.objective.check_every=4",
  )
  assert train(config, tmp_path)
  assert_equal_states(state_at(reference_student, 8), state_at(tmp_path, 8))
  assert errors(read_metrics(reference_student)) == {}
  found = errors(read_metrics(tmp_path))
  assert found.keys() == {4, 8}
  for scalars in found.values():
    assert max(scalars.values()) < 1e-5


def test_a_check_finds_what_rounds(
  long_reference,
  train,
  make_config,
  read_metrics,
  state_at,
  assert_equal_states,
  tmp_path,
):
  teacher = f"--config.teacher={long_reference}"
  flags = ("scd", teacher, "--config.total_steps=4")
  # A tangent that is hardly warmed up is small, and rounding shows everywhere.
  flags = (*flags, "--config.objective.warmup_steps=500")
  flags = (*flags, "--config.network.dtype=bfloat16")
  plain, checked = tmp_path / "plain", tmp_path / "checked"
  assert train(make_config(*flags), plain)
  assert train(make_config(*flags, "--config.objective.check_every=2"), checked)
  assert_equal_states(state_at(plain, 4), state_at(checked, 4))
  assert errors(read_metrics(plain)) == {}
  found = errors(read_metrics(checked))
  assert found.keys() == {2, 4}
  for scalars in found.values():
    assert 1e-4 < min(scalars.values()) and max(scalars.values()) < 1


def test_a_tangent_in_float32_is_checked_as_it_is_taken(
  reference, train, make_config, read_metrics, tmp_path
):
  """The run is bfloat16; its tangent is not."""
  config = make_config(
    *("sct", f"--config.teacher={reference}", "--config.total_steps=2"),
    "--config.network.dtype=bfloat16",
    "--config.objective.tangent_dtype=float32",
    "--config.objective.check_every=2",
  )
  assert train(config, tmp_path)
  [scalars] = errors(read_metrics(tmp_path)).values()
  assert max(scalars.values()) < 1e-5
