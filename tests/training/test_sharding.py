"""Where arrays lie, and that it changes nothing but the order of summation."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractMesh, PartitionSpec

from scm_jax.defaults import get_defaults
from scm_jax.errors import ConfigError
from scm_jax.training import program, resolve, sharding

SPLIT = ("data", "fsdp", "both", "half")
FSDP = {"alone": 1, "data": 1, "fsdp": 8, "both": 4, "half": 2}


@pytest.fixture
def rare_layouts(printed_by):
  """What the same script prints of layouts that few runs use."""
  return printed_by("eight_devices", "rare")


class Device:
  """Of a topology that is not here."""

  def __init__(self, id, process_index):
    self.id, self.process_index = id, process_index

  def __repr__(self):
    return f"{self.process_index}:{self.id}"


def devices(hosts, each):
  """In an order that is not by host."""
  ids = range(hosts * each)
  return [Device(i, i // each) for i in sorted(ids, key=lambda i: i % each)]


def config_of(data=-1, fsdp=1, **fields):
  config = get_defaults()
  config.mesh.update(data=data, fsdp=fsdp)
  config.update(fields)
  return config


def test_filters_lie_in_the_order_that_is_asked_for():
  config = config_of()
  config.sharding.filter_order = "OHWI"
  mesh = sharding.make_mesh(config, jax.devices()[:1])
  shapes = {"filter": (3, 3, 4, 8), "pixel": (1, 1, 4, 8), "dense": (4, 8)}
  tree = {name: jnp.ones(shape) for name, shape in shapes.items()}
  there = sharding.formats(sharding.placed(config, mesh, tree))
  order = jax.tree.map(
    lambda x: x.format.layout.major_to_minor, jax.device_put(tree, there)
  )
  assert order == {
    "filter": (3, 0, 1, 2),
    "pixel": (0, 1, 2, 3),
    "dense": (0, 1),
  }


@pytest.mark.parametrize("name", SPLIT)
def test_loss_and_gradients_are_those_of_one_device(eight_devices, name):
  """With dropout, label dropout, sampled guidance, microbatches and remat."""
  run = eight_devices[name]
  assert run["gradients"] < 1e-5
  assert run["metrics"] < 1e-5
  assert run["loss"] == pytest.approx(eight_devices["alone"]["loss"], rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["apart", "filters", "isolated", "reduced"])
def test_other_ways_to_the_same_gradient(rare_layouts, name):
  """A tangent in a pass of its own; a loop that would do a part again; sums
  over the devices in a type that is named."""
  run = rare_layouts[name]
  assert run["gradients"] < 1e-5
  assert run["metrics"] < 1e-5


@pytest.mark.slow
def test_a_second_network_is_sharded_and_offloaded_too(rare_layouts):
  second = rare_layouts["second"]
  assert second["size"] > 1e-4 and second["gradients"] < 1e-5
  assert second["memory"] == ["pinned_host"]


@pytest.mark.slow
def test_float16_keeps_the_digits_of_the_gradient(rare_layouts):
  """Rounding is 2^-11; without scaling most entries would be lost."""
  assert rare_layouts["float16"]["gradients"] < 0.02
  assert rare_layouts["float16"]["metrics"] < 0.02


@pytest.mark.slow
def test_the_type_in_which_gradients_are_summed(rare_layouts):
  """Of a bfloat16 network; its time path is float32 in any case."""
  plain, wide = (rare_layouts["reduced_in"][name] for name in ("", "float32"))
  assert plain["bf16"] > 10 and "bf16" not in wide
  assert wide["f32"] == sum(plain.values())


def test_a_state_is_drawn_the_same_in_its_shards(eight_devices):
  assert eight_devices["fsdp"]["initialized"] < 1e-6


def test_nothing_is_resharded_inside_the_network(eight_devices):
  for name in SPLIT:
    counts = eight_devices[name]["collectives"]
    assert counts["all-to-all"] == counts["collective-permute"] == 0
  assert not any(eight_devices["alone"]["collectives"].values())
  data = eight_devices["data"]["collectives"]
  assert data["all-gather"] == data["reduce-scatter"] == 0 < data["all-reduce"]


@pytest.mark.parametrize("name", ["fsdp", "both"])
def test_gradients_are_scattered_once_for_each_sharded_weight(
  eight_devices, name
):
  placement = eight_devices[name]["placement"]
  sharded = [
    path
    for path, (shape, parts) in placement.items()
    if path.startswith("state/params/") and parts != [shape]
  ]
  assert len(sharded) > 15
  counts = eight_devices[name]["collectives"]
  assert counts["reduce-scatter"] == len(sharded)


@pytest.mark.parametrize("name", FSDP)
def test_each_array_lies_in_equal_parts(eight_devices, name):
  """Parameters, moments, averages and teacher; by the rule, written anew."""
  placement, size = eight_devices[name]["placement"], FSDP[name]
  roots = {"/".join(path.split("/")[:2]) for path in placement}
  assert {"state/params", "state/opt_state", "state/ema"} <= roots
  assert "teacher/denoiser" in roots
  for path, (shape, parts) in placement.items():
    expected = list(shape)
    wide = [n for n in shape if n % size == 0]
    if size > 1 and wide and math.prod(shape) >= 64:
      last = max(i for i, n in enumerate(shape) if n == max(wide))
      expected[last] //= size
    assert parts == [expected], path


def test_a_device_holds_its_part_and_donates_all_of_it(eight_devices):
  held = {name: eight_devices[name]["memory"] for name in FSDP}
  for name, (state, aliased) in held.items():
    assert aliased == state, name
  assert held["data"] == held["alone"]
  assert held["fsdp"][0] < held["alone"][0] / 6  # what is small is repeated


@pytest.mark.parametrize("name", ["both", "half", "alone"])
def test_a_checkpoint_of_8_devices_goes_on_with(eight_devices, name):
  run = eight_devices[name]
  assert run["restored"] == 0
  assert run["devices"] == [{"both": 8, "half": 4, "alone": 1}[name]]
  assert run["continued"] < 1e-5


def test_a_checkpoint_of_8_devices_is_read_on_2(eight_devices):
  assert eight_devices["two"]["restored"] == 0


@pytest.mark.slow
def test_what_rests_on_the_host(rare_layouts):
  """It changes no bit, stays there in training, and comes back there."""
  run = rare_layouts["offloaded"]
  assert run["changed"] == 0
  host, device = ["pinned_host"], ["device"]
  there = {"params": device, "opt_state": host, "ema": host}
  assert run["after_a_step"] == run["kinds"] == there
  assert rare_layouts["both"]["kinds"]["ema"] == device
  assert run["restored"] == 0 and run["continued"] < 1e-5


def test_only_the_state_can_rest():
  config = config_of(offload=("averages", "moment"), total_steps=1)
  config.data.update(size=8)
  with pytest.raises(ConfigError, match="config.offload names 'moment'"):
    resolve.check(config)


def test_hosts_are_outermost():
  config = config_of(fsdp=4, batch_size=24)
  mesh = sharding.make_mesh(config, devices(hosts=3, each=8))
  assert dict(mesh.shape) == {"data": 6, "fsdp": 4}
  ids = np.vectorize(lambda device: device.id)(mesh.devices)
  np.testing.assert_array_equal(ids, np.arange(24).reshape(6, 4))


@pytest.mark.parametrize(
  "data, fsdp, sizes",
  [(-1, 1, (8, 1)), (1, -1, (1, 8)), (-1, 4, (2, 4)), (2, 4, (2, 4))],
)
def test_sizes_of_the_mesh(data, fsdp, sizes):
  mesh = sharding.make_mesh(config_of(data, fsdp), devices(1, 8))
  assert mesh.devices.shape == sizes


@pytest.mark.parametrize(
  "data, fsdp", [(-1, -1), (-1, 3), (4, 4), (1, 1), (-1, 16), (0, 8), (-2, 4)]
)
def test_meshes_that_the_devices_cannot_make(data, fsdp):
  with pytest.raises(ConfigError, match="which 8 device") as info:
    sharding.make_mesh(config_of(data, fsdp), devices(1, 8))
  assert f"data={data}, fsdp={fsdp}" in str(info.value)


def test_a_batch_that_does_not_divide():
  config = config_of(batch_size=24, microbatches=2)
  with pytest.raises(ConfigError, match="make it a multiple of 16"):
    sharding.make_mesh(config, devices(1, 8))


@pytest.mark.parametrize("devices", [8, 64])
@pytest.mark.parametrize("limit", [1, 48, 64, 100, 1000])
def test_passes_hold_as_many_images_as_they_may(devices, limit):
  """One config for few devices and for many: the parts follow the devices."""
  config = config_of(batch_size=2048, images_per_pass=limit)
  images = 2048 // devices
  parts = sharding.microbatches(config, devices)
  assert images % parts == 0 and images // parts <= limit
  fewer = [n for n in range(1, parts) if images % n == 0]
  assert all(images // n > limit for n in fewer)
  config.microbatches = 4  # what is asked for goes first
  assert sharding.microbatches(config, devices) == 4


@pytest.mark.slow
def test_passes_are_microbatches(make_config):
  """The step of either field is the same program."""

  def lowered(*flags):
    config = make_config("teacher", "--config.batch_size=8", *flags)
    mesh = sharding.make_mesh(config, jax.devices()[:1])
    made = program.make(resolve.resolve(config), mesh)
    return made.step.lower(*made.arguments).as_text()

  parts = lowered("--config.microbatches=4")
  assert lowered("--config.images_per_pass=2") == parts
  assert lowered("--config.images_per_pass=8") == lowered() != parts


def spec(path, shape, **fields):
  config = get_defaults()
  config.sharding.update(fields)
  return sharding.spec(
    path, shape, config, AbstractMesh((2, 4), ("data", "fsdp"))
  )


def test_the_rule():
  conv = (3, 3, 512, 1024)
  assert spec("a", conv) == PartitionSpec(None, None, None, "fsdp")
  assert spec("a", (3, 3, 512, 512)) == PartitionSpec(None, None, None, "fsdp")
  assert spec("a", (3, 3, 1024, 510)) == PartitionSpec(None, None, "fsdp")
  assert spec("a", (3, 3, 510, 510)) == PartitionSpec()
  assert spec("a", (128, 511)) == PartitionSpec()  # fewer than min_size
  assert spec("a", (128, 512)) == PartitionSpec(None, "fsdp")
  assert spec("a", (8, 4), min_size=1) == PartitionSpec("fsdp")
  assert spec("a", ()) == PartitionSpec()


def test_rules_by_pattern():
  rules = (("bias$", None), ("conv_in", 2), ("conv", -1))
  by_rule = lambda path, shape: spec(path, shape, rules=rules)
  assert by_rule("mu/conv_in/weight", (3, 3, 4, 8)) == PartitionSpec(
    None, None, "fsdp"
  )
  assert by_rule("conv1/weight", (512, 8)) == PartitionSpec(None, "fsdp")
  assert by_rule("conv1/bias", (1 << 20,)) == PartitionSpec()
  assert by_rule("other", (1 << 20,)) == PartitionSpec("fsdp")
  with pytest.raises(ConfigError, match=r"dimension 2 of conv_in/weight"):
    by_rule("conv_in/weight", (3, 3, 5, 8))
  with pytest.raises(ConfigError, match=r"does not divide"):
    by_rule("conv_in/weight", (8, 8))


def test_one_device_holds_everything_whole():
  mesh = sharding.make_mesh(config_of())
  assert mesh.size == jax.device_count()
  tree = {"a": jax.ShapeDtypeStruct((512, 512), jnp.float32)}
  [leaf] = jax.tree.leaves(sharding.placed(config_of(), mesh, tree))
  assert leaf.sharding.is_fully_replicated
