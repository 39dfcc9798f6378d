"""Times from rates."""

import dataclasses

import pytest

from scm_jax.defaults import get_defaults
from scm_jax.planning import estimate, targets
from scm_jax.planning.estimate import Traffic
from scm_jax.training import resolve

A100 = targets.parse("a100-80gb:8x8")


def test_bandwidth():
  card = A100.card
  assert estimate.bandwidth(card, size=8, local=8) == 300e9  # one host
  assert estimate.bandwidth(card, size=8, local=1) == 25e9  # its own port
  assert estimate.bandwidth(card, size=64, local=8) == 200e9  # eight ports
  wide = dataclasses.replace(card, network=100e9)
  assert estimate.bandwidth(wide, size=64, local=8) == 300e9


def test_times():
  traffic = [
    Traffic("all-gather", 300e9, 8, 8),
    Traffic("all-reduce", 50e9, 8, 1),
  ]
  times = estimate.times(A100, 312e12, int(2.039e12), traffic)
  assert times is not None
  assert times.compute == pytest.approx(1 / estimate.EFFICIENCY)
  assert times.update == pytest.approx(2)
  assert times.communication == pytest.approx(1 + 2)
  assert times.serial == pytest.approx(2.5 + 2 + 3)
  assert times.overlapped == pytest.approx(3 + 2)
  assert times.efficiency(times.serial) == pytest.approx(4.5 / 7.5)


def test_nothing_is_known_of_cpus():
  assert estimate.times(targets.parse("cpu:8"), 1e9, 1, []) is None


@pytest.mark.parametrize(
  "devices, mesh", [(8, (1, 8)), (64, (8, 8)), (1024, (128, 8)), (4, (1, 4))]
)
def test_growing(devices, mesh):
  assert estimate.mesh_at(devices, fsdp=8) == mesh


def test_float32_counts_by_the_time_that_it_takes():
  """A guided teacher and a tangent of their own: 4 of 7 forward passes."""
  config = get_defaults()
  config.run = "scd"
  config.network.dtype = "bfloat16"
  config.data.update(size=8, channels=1, num_classes=10)
  config.network.channel_mult = (1,)
  config.objective.guidance = "sampled"
  v5p, a100 = targets.parse("v5p:4x4x4").card, A100.card
  weigh = lambda card, step: estimate.weighted_flops(
    resolve.resolve(config), card, step, 1.0
  )
  assert weigh(v5p, 6.0) == 6
  config.objective.tangent_dtype = "float32"
  config.objective.tangent_precision = "high"
  assert weigh(v5p, 7.0) == 3 + 4 * 3  # three bfloat16 products for one
  assert weigh(a100, 7.0) == 3 + 4 * 2  # TensorFloat-32
  config.run = "sct"
  config.objective.guidance = "none"
  assert weigh(v5p, 5.0) == 3 + 2 * 3  # no teacher
  config.run = "teacher"
  assert weigh(v5p, 3.0) == 3  # and no tangent
