"""Every config, run and size: its abstract state, batch, schedule and length.

The numbers are written out here once more, from the paper's tables.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scm_jax import networks
from scm_jax.codec import LatentCodec, PixelCodec
from scm_jax.data import pipeline, sources
from scm_jax.errors import ConfigError
from scm_jax.training import optimizer, program, resolve, sharding
from scm_jax.training.ema import averaging, posthoc
from scm_jax.training.step import init_state

# Millions of parameters: EDM2's, and with the double normalisation's shift.
# With guidance, a linear layer of `channels` by `4 channels` more.
EDM2 = {
  "s": (280.2, 293.9),
  "m": (497.8, 522.2),
  "l": (777.5, 815.6),
  "xl": (1119.3, 1174.1),
  "xxl": (1523.2, 1597.8),
}
CHANNELS = {"s": 192, "m": 256, "l": 320, "xl": 384, "xxl": 448}
SIZES = {"imagenet64": ("s", "m", "l", "xl"), "imagenet512": tuple(CHANNELS)}
# Thousands of iterations.
TEACHER = {
  "imagenet64": (1048, 1486, 761, 540),
  "imagenet512": (1048, 1048, 696, 598, 376),
}
STUDENT = {
  "imagenet64": {"sct": 400, "scd": 400},
  "imagenet512": {"sct": 100, "scd": 200},
}
RATES = {"s": 1e-2, "m": 9e-3, "l": 8e-3, "xl": 7e-3, "xxl": 6.5e-3}
DECAY = {"imagenet64": 35_000, "imagenet512": 70_000}

IMAGENET = [
  (name, run, size)
  for name, sizes in SIZES.items()
  for run in ("teacher", "sct", "scd")
  for size in sizes
]


def abstract_state(config):
  resolve.check(config)
  network = networks.build(resolve.network_config(config))
  return jax.eval_shape(lambda: init_state(config, network))


def total(tree) -> int:
  return sum(leaf.size for leaf in jax.tree.leaves(tree))


@pytest.mark.parametrize(("name", "run", "size"), IMAGENET)
def test_imagenet_state(load, name, run, size):
  config = load(name, f"run={run},size={size}")
  state = abstract_state(config)

  count = networks.parameter_count(state.params)
  guided = name == "imagenet512" and run == "scd"
  extra = 4 * CHANNELS[size] ** 2 if guided else 0
  published, ours = EDM2[size]
  if config.network.double_norm == "split":
    assert (count - extra) / 1e6 == pytest.approx(ours, abs=0.05)
  else:
    assert (count - extra) / 1e6 == pytest.approx(published, abs=0.05)
  assert ("emb_guidance" in state.params["denoiser"]["embedding"]) == guided

  # Two moments, and as many averages as the config names; all float32.
  weights = total(state.params)
  assert set(state.ema) == {averaging.name(a) for a in config.ema}
  assert all(total(average) == weights for average in state.ema.values())
  moments = [
    leaf for leaf in jax.tree.leaves(state.opt_state) if leaf.ndim or leaf.size
  ]
  assert 2 * weights <= total(moments) <= 2 * weights + 4
  floats = jax.tree.leaves((state.params, state.ema))
  assert {leaf.dtype for leaf in floats} == {jnp.dtype("float32")}


@pytest.mark.parametrize(("name", "run", "size"), IMAGENET)
def test_imagenet_length_and_schedule(load, name, run, size):
  config = load(name, f"run={run},size={size}")
  if run == "teacher":
    thousands = TEACHER[name][SIZES[name].index(size)]
    alpha = RATES[size]
  else:
    thousands = STUDENT[name][run]
    alpha = RATES[size] / 100
  assert config.batch_size == 2048
  images = config.batch_size * config.total_steps
  assert images == 2048 * 1000 * thousands

  rate = lambda step: float(optimizer.learning_rate(config, step))
  decay = DECAY[name]
  ramp = 10_000_000 / 2048  # steps
  assert rate(0) == 0
  assert rate(ramp / 2) == pytest.approx(alpha / 2, rel=1e-6)
  assert rate(ramp) == rate(decay) == pytest.approx(alpha, rel=1e-6)
  assert rate(4 * decay) == pytest.approx(alpha / 2, rel=1e-6)
  assert rate(config.total_steps) == pytest.approx(
    alpha / (config.total_steps / decay) ** 0.5, rel=1e-6
  )


@pytest.mark.parametrize("run", ["teacher", "sct", "scd"])
def test_cifar10(load, run):
  config = load("cifar10", f"run={run}")
  state = abstract_state(config)
  count = networks.parameter_count(state.params) / 1e6
  # DDPM++ has 55.7 M; the double normalisation adds a scale to its shift.
  assert 55.7 < count < 61
  assert config.batch_size * config.total_steps == 204_800_000
  assert set(state.ema) == {"500000"}

  rate = lambda step: float(optimizer.learning_rate(config, step))
  if run == "teacher":
    assert rate(0) == 0 and rate(10_000_000 / 1024) == pytest.approx(5e-4)
    assert rate(20_000) == rate(400_000) == pytest.approx(1e-3)
  else:
    assert rate(0) == rate(400_000) == pytest.approx(1e-4)
  assert config.optimizer.name == ("adam" if run == "teacher" else "radam")


@pytest.mark.parametrize(("name", "run", "size"), IMAGENET)
def test_dropout_acts_where_the_paper_says(load, name, run, size):
  network = resolve.network_config(load(name, f"run={run},size={size}"))
  small = size == "s"
  expected = {
    ("imagenet64", "teacher"): 0.0 if small else 0.1,
    ("imagenet64", "sct"): 0.45,
    ("imagenet64", "scd"): 0.0,
    ("imagenet512", "teacher"): 0.0 if small else 0.1,
    ("imagenet512", "sct"): 0.25 if small else 0.35,
    ("imagenet512", "scd"): 0.0 if small else 0.1,
  }
  assert network.dropout == expected[name, run]
  assert network.dropout_resolution == (64 if run == "teacher" else 16)


def test_only_sampled_guidance_of_latents(load):
  """sCD of ImageNet-512 takes s ~ U[1, 2]; nothing else is guided."""
  for name, sizes in SIZES.items():
    for run in ("teacher", "sct", "scd"):
      config = load(name, f"run={run},size={sizes[0]}")
      sampled = (name, run) == ("imagenet512", "scd")
      guidance = config.objective.guidance
      assert guidance == ("sampled" if sampled else "none")
      assert config.objective.label_dropout == (
        0.1 if name == "imagenet512" else 0.0
      )
  assert load("imagenet512", "run=scd").objective.guidance_range == (1.0, 2.0)


def test_codecs(load):
  pixels = resolve.codec(load("imagenet64", "run=teacher"))
  assert pixels == PixelCodec(0.0, 0.5, 0.5)
  black_and_white = jnp.array([0, 255], jnp.uint8)
  np.testing.assert_allclose(pixels.encode(black_and_white), [-1, 1])
  assert resolve.codec(load("cifar10", "run=sct")) == pixels

  latents = resolve.codec(load("imagenet512", "run=teacher"))
  assert latents == LatentCodec(
    (1.56, -0.695, 0.483, 0.729), (5.27, 5.91, 4.21, 4.31), 0.5, (-1.0, 1.0)
  )
  theirs = resolve.codec(load("imagenet512", "run=teacher,latents=edm2"))
  assert theirs == LatentCodec(
    (5.81, 3.25, 0.12, -2.15), (4.17, 4.62, 3.71, 3.28), 0.5, (0.0, 1.0)
  )


@pytest.mark.parametrize(
  ("name", "arg", "said"),
  [
    ("cifar10", "size=s", "no argument 'size'"),
    ("imagenet64", "size=xxl", "argument size=xxl: did you mean 'xl'?"),
    ("imagenet64", "run=teach", "argument run=teach: did you mean 'teacher'?"),
    ("imagenet512", "latents=sd", "argument latents=sd: choose from paper"),
  ],
)
def test_arguments_that_are_none(load, name, arg, said):
  with pytest.raises(ConfigError) as error:
    load(name, arg)
  assert said in str(error.value) and f"configs/{name}.py" in str(error.value)


@pytest.mark.parametrize(
  ("change", "said"),
  [
    ({"data.channels": 8}, "config.data.channels is 8; latents have 4"),
    ({"data.flip": True}, "mirrors images, not latents"),
    ({"data.mean": (0.0, 1.0)}, "config.data.mean is (0.0, 1.0); give 4"),
    ({"data.kind": "latent"}, "config.data.kind is 'latent'; choose one of"),
  ],
)
def test_latents_that_make_no_run(load, change, said):
  config = load("imagenet512", "run=teacher").copy_and_resolve_references()
  config.update_from_flattened_dict(change)
  with pytest.raises(ConfigError) as error:
    resolve.check(config)
  assert said in str(error.value)


@pytest.mark.parametrize(
  ("name", "change", "said"),
  [
    ("cifar10", {"network.augment": False}, "the network is not told what"),
    ("cifar10", {"data.flip": True}, "and mirrors them itself"),
    ("cifar10", {"data.augment": 1.5}, "is 1.5; it is a probability"),
    ("imagenet64", {"network.augment": True}, "is an input of ddpmpp"),
    ("imagenet64", {"network.weighting": "log"}, "choose one of positional"),
  ],
)
def test_augmentation_and_heads_that_make_no_run(load, name, change, said):
  config = load(name, "run=teacher").copy_and_resolve_references()
  resolve.check(config)
  config.update_from_flattened_dict(change)
  with pytest.raises(ConfigError) as error:
    resolve.check(config)
  assert said in str(error.value) and "\n" not in str(error.value)


def test_snapshots_of_narrow_averages_are_not_rounded(load):
  """What float16 leaves in the average that students start from."""
  times = 4096.0 * np.arange(1, 1_048_000 // 4096 + 1)
  for size in CHANNELS:
    config = load("imagenet512", f"run=teacher,size={size}")
    student = load("imagenet512", f"run=scd,size={size}")
    stored = times[times <= config.total_steps]
    kept = [averaging.power_exponent(width) for width in (0.05, 0.10)]
    exponents = np.repeat(kept, len(stored))
    exponent = averaging.power_exponent(student.teacher_ema)
    coefficients = posthoc.fit(
      posthoc.Profile(np.tile(stored, 2), exponents),
      posthoc.Profile(stored[-1], exponent),
    )
    # A rounding error is up to 2^-11 of a weight, and uniform.
    ulp = {"float16": 2.0**-11, "float32": 2.0**-24}[config.snapshot_dtype]
    noise = np.linalg.norm(coefficients) * ulp / 3**0.5
    assert noise < 0.006


@pytest.mark.parametrize("name", ["cifar10", "imagenet64", "imagenet512"])
def test_the_pipelines_batch_is_the_abstract_one(load, name):
  config = load(name, "run=scd,tiny")
  source = sources.open_source(config.data)
  batch = pipeline.Batches(source, batch_size=config.batch_size, seed=0)[0]
  mesh = sharding.make_mesh(config, jax.devices()[:1])
  abstract = program.abstract_batch(config, mesh)
  assert batch.keys() == abstract.keys()
  for key, array in batch.items():
    assert (array.shape, array.dtype) == (
      abstract[key].shape,
      abstract[key].dtype,
    )
