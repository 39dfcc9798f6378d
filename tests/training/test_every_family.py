"""Every network family can be run in every way, and each way acts."""

import pytest

from scm_jax import networks

pytestmark = pytest.mark.slow

FAMILIES = sorted(networks.FAMILIES)


@pytest.fixture
def measured(printed_by, family):
  """What `every_family.py` prints of the family."""
  return printed_by("every_family")[family]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_teachers_weights_are_kept_in_teacher_dtype(measured):
  assert measured["teacher_types"] == ["bfloat16"]


@pytest.mark.parametrize("family", FAMILIES)
def test_sharded_weights_are_gathered_where_they_are_used(measured):
  assert measured["gathered_at_once"] < 0.2
  alone, sharded = measured["loss"]
  assert sharded == pytest.approx(alone, rel=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_plan_counts_what_sharded_weights_send(measured):
  """Gathers of the forward and the backward pass, which the trace shares."""
  traffic = measured["traffic"]
  for kind, passes in (("all-gather", 2), ("reduce-scatter", 1)):
    planned, traced = traffic[kind]
    assert planned == pytest.approx(passes * traced) and traced > 0


@pytest.mark.parametrize("family", FAMILIES)
def test_recomputed_blocks_keep_less(measured):
  kept = measured["residuals"]
  assert kept["full"] < kept["dots"] < kept["none"]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_optimizers_state_rests_on_the_host(measured):
  places = measured["offloaded"]
  assert places["params"] == ["device"]
  assert places["opt_state"] == places["ema"] == ["pinned_host"]
