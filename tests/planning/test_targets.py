"""Targets by name."""

import pytest

from scm_jax.errors import ConfigError
from scm_jax.planning import targets


@pytest.mark.parametrize(
  "name, devices, domain",
  [
    ("a100-40gb:4x8", 32, 8),
    ("a100-80gb:8x8", 64, 8),
    ("h100-80gb:2x8", 16, 8),
    ("h200:1x4", 4, 4),
    ("v5p:4x4x4", 64, 8960),
    ("v5e:16x16", 256, 256),
    ("v6e:8x8", 64, 256),
    ("cpu:8", 8, 8),
  ],
)
def test_devices(name, devices, domain):
  target = targets.parse(name)
  assert (target.name, target.devices) == (name, devices)
  assert target.domain == domain
  assert target.card.memory > 0


@pytest.mark.parametrize(
  "name, said",
  [
    ("a100-80g:8x8", "did you mean 'a100-80gb'?"),
    ("mi300x:1x8", "choose from a100-40gb"),
    ("a100-80gb", "give a100-80gb:HOSTSxDEVICES, such as a100-80gb:8x8"),
    ("a100-80gb:64", "HOSTSxDEVICES"),
    ("a100-80gb:0x8", "HOSTSxDEVICES"),
    ("v5p:8x8", "give v5p:XxYxZ, such as v5p:4x4x4"),
    ("v5e:4x4x4", "give v5e:XxY, such as v5e:8x8"),
    ("h100:1x8", "did you mean 'h100-80gb'?"),
    ("v5e:3x3", "multiples of 2x2"),
    ("cpu:2x2", "give cpu:DEVICES"),
    ("cpu:999999999", "give at most"),
  ],
)
def test_mistakes(name, said):
  with pytest.raises(ConfigError, match="--target=") as caught:
    targets.parse(name)
  assert said in str(caught.value)
