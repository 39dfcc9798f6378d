"""The published networks have the published numbers of parameters."""

import dataclasses

import pytest

from scm_jax import defaults, networks, schema
from scm_jax.networks import presets
from scm_jax.training import resolve

IMAGENET_512 = {"resolution": 64, "in_channels": 4, "num_classes": 1000}
CIFAR_10 = {"resolution": 32, "in_channels": 3}
# Millions of parameters of EDM2's sizes (arXiv 2312.02696, Table 2).
SIZES = {
  "xxs": 31.3,
  "xs": 124.7,
  "s": 280.2,
  "m": 497.8,
  "l": 777.5,
  "xl": 1119.3,
  "xxl": 1523.2,
}


def millions(preset, **fields):
  fields = preset | fields
  family = networks.FAMILIES[fields.pop("family")]
  params = networks.build(family.config(**fields)).shapes
  return round(networks.parameter_count(params) / 1e6, 1)


@pytest.mark.parametrize(
  "size",
  [s if s == "xs" else pytest.param(s, marks=pytest.mark.slow) for s in SIZES],
)
def test_edm2(size):
  preset = presets.EDM2[size] | IMAGENET_512
  assert millions(preset, form="edm2") == SIZES[size]


def test_every_size_is_edm2s():
  assert presets.EDM2.keys() == SIZES.keys()


@pytest.mark.slow
def test_trigflow_form():
  """One wiring of the double normalisation adds nothing to EDM2's count."""
  preset = presets.EDM2["s"] | IMAGENET_512
  assert millions(preset, double_norm="shared") == SIZES["s"]
  assert millions(preset, double_norm="split") == 293.9


def test_ddpmpp():
  preset = presets.DDPMPP | CIFAR_10
  assert millions(preset, form="edm") == 55.7  # arXiv 2206.00364's network
  assert millions(preset) == 60.1  # twice as wide a layer after each embedding


# Millions of parameters of DiT's sizes (arXiv 2212.09748, Table 4).
@pytest.mark.parametrize(
  ("size", "count"), {"s": 33, "b": 130, "l": 458, "xl": 675}.items()
)
def test_dit(size, count):
  latents = {"resolution": 32, "in_channels": 4, "num_classes": 1000}
  preset = presets.DIT[size] | latents
  assert round(millions(preset | presets.DIT_LAYERS)) == count
  # What sCM needs, and SwiGLU, leave it as it is.
  assert millions(preset) == pytest.approx(count, rel=0.01)


def test_presets_are_fields_of_the_config():
  transformers = (size | presets.DIT_LAYERS for size in presets.DIT.values())
  for preset in (presets.DDPMPP, *presets.EDM2.values(), *transformers):
    config = defaults.get_defaults()
    assert preset.keys() <= set(config.network.keys())
    config.network.update(preset)
    kind = networks.FAMILIES[config.network.family].config
    names = {field.name for field in dataclasses.fields(kind)}
    assert preset.keys() - {"family"} <= names


@pytest.mark.parametrize("family", networks.FAMILIES)
def test_a_config_begins_with_its_familys_defaults(family):
  kind = networks.FAMILIES[family].config
  config = defaults.get_defaults("scd", family)
  config.data.size, config.data.channels = 32, 3
  run = resolve.resolve(config)
  assert type(run.network) is kind
  own = kind(resolution=run.data.size, in_channels=run.data.channels)
  for name in schema.options(kind):
    assert getattr(run.network, name) == getattr(own, name)
