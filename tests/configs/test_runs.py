"""The paper's configs: their states, codecs, batches and mistakes.

Their numbers are those of the tables in docs/configs.md; see test_docs.py.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scm_jax.data import pipeline, sources
from scm_jax.defaults import get_defaults
from scm_jax.errors import ConfigError
from scm_jax.objectives import OBJECTIVES
from scm_jax.training import program, resolve, sharding
from scm_jax.training.ema import averaging, posthoc
from scm_jax.training.step import init_state

PAPERS = ["cifar10", "imagenet64", "imagenet256", "imagenet512"]


def total(tree) -> int:
  return sum(leaf.size for leaf in jax.tree.leaves(tree))


@pytest.mark.parametrize(
  "run",
  [
    "scd",
    *(pytest.param(r, marks=pytest.mark.slow) for r in ("teacher", "sct")),
  ],
)
@pytest.mark.parametrize("name", PAPERS)
def test_state(load, name, run):
  """Two moments and the config's EMAs for each parameter, all in float32."""
  config = load(name, f"run={run}")
  run = resolve.check(config)
  state = jax.eval_shape(lambda: init_state(run))
  weights = total(state.params)
  assert set(state.ema) == {averaging.name(a) for a in config.ema}
  assert all(total(average) == weights for average in state.ema.values())
  moments = [
    leaf for leaf in jax.tree.leaves(state.opt_state) if leaf.ndim or leaf.size
  ]
  assert 2 * weights <= total(moments) <= 2 * weights + 4
  floats = jax.tree.leaves((state.params, state.ema))
  assert {leaf.dtype for leaf in floats} == {jnp.dtype("float32")}


@pytest.mark.parametrize("name", PAPERS)
def test_a_second_stage_takes_an_average_that_its_first_one_keeps(load, name):
  """Others would be made of snapshots, and are of diffusion teachers."""
  first, second = (load(name, f"run={run}") for run in ("ect", "tcm"))
  assert (second.teacher_ema or first.ema[0]) in first.ema


EVERY = pytest.mark.parametrize(
  "name",
  ["cifar10", "digits", "digits_dit", "images", "imagenet64", "imagenet256"]
  + ["imagenet512", "methods", "miniature", "mnist"],
)


@pytest.mark.parametrize("tiny", ["", ",tiny"])
@EVERY
def test_every_objective_takes_its_last_form(load, name, tiny):
  """Schedules that are counted in steps end before the run does."""
  for run in OBJECTIVES:
    assert not resolve.remarks(resolve.resolve(load(name, f"run={run}{tiny}")))


@EVERY
def test_every_objective_is_drawn_as_it_needs(load, name):
  """A MeanFlow of pixels has another half of the way."""
  for run, spec in OBJECTIVES.items():
    config = load(name, f"run={run}")
    sample = config.sample.to_dict()
    if config.objective.kappa != 1.0:
      half = np.arctan(1 / config.objective.kappa)
      assert sample["t_mid"] == pytest.approx(half, abs=0.01)
    else:
      assert sample | spec.sample == sample


@pytest.mark.parametrize(
  ("run", "steps", "option"),
  [
    ("scd", 499, "warmup_steps"),
    ("ect", 2624, "easy_stage"),  # the eighth stage of 375 begins at 2625
    ("alphaflow", 2999, "anneal_steps"),
  ],
)
def test_schedules_that_a_run_is_too_short_for(load, run, steps, option):
  config = resolve.resolve(load("digits", f"run={run}"))
  (remark,) = resolve.remarks(dataclasses.replace(config, total_steps=steps))
  assert f"config.objective.{option}" in remark and str(steps) in remark
  enough = dataclasses.replace(config, total_steps=steps + 1)
  assert not resolve.remarks(enough)


def test_transformers_that_scm_diverges_on(load):
  """Their teachers, and other objectives, say nothing."""
  remarks = {
    (run, layers): resolve.remarks(
      resolve.resolve(load("imagenet256", f"run={run},layers={layers}"))
    )
    for run in ("teacher", "scd", "facm", "meanflow")
    for layers in ("scm", "dit")
  }
  [remark] = remarks.pop(("scd", "dit"))
  assert "norm=rms and qk_norm=True and modulation=double" in remark
  assert not any(remarks.values())


@pytest.mark.parametrize("run", ["ect", "meanflow", "facm", "ms_scd"])
def test_a_run_with_the_defaults_of_another_is_said(run):
  config = get_defaults(run)
  assert not resolve.remarks(resolve.resolve(config))
  other = get_defaults("teacher")
  other.run = run
  found = resolve.remarks(resolve.resolve(other))
  assert any(f"get_defaults({run!r})" in remark for remark in found)


@pytest.mark.parametrize("name", PAPERS)
def test_codecs_map_the_data_to_the_networks_deviation(load, name):
  """Data of the config's mean and deviation get mean 0, deviation sigma_d."""
  config = load(name, "run=teacher")
  data, codec = config.data, resolve.resolve(config).codec
  if data.kind == "images":
    stored = jnp.array([0, 255], jnp.uint8)
    np.testing.assert_allclose(codec.encode(stored), [-1, 1])
    assert (data.mean, data.std) == (0.0, config.sigma_d)
    return
  mean, std = jnp.array(data.mean), jnp.array(data.std)
  encoded = codec.encode(jnp.concatenate([mean, 0 * std]), jax.random.key(0))
  np.testing.assert_allclose(encoded, jnp.zeros(4), atol=1e-6)


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
    ({"data.channels": 8}, "give 8 numbers, one for each of data.channels"),
    ({"data.flip": True}, "mirrors images, not latents"),
    ({"data.mean": (0.0, 1.0)}, "config.data.mean is (0.0, 1.0); give 4"),
    ({"data.kind": "latent"}, "config.data.kind is 'latent'"),
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
    (
      "imagenet64",
      {"network.augment": True},
      "config.network.augment is True, but unet",
    ),
    (
      "imagenet64",
      {"network.weighting": "log"},
      "config.network.weighting is 'log'",
    ),
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
  for size in ("s", "m", "l", "xl", "xxl"):
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


@pytest.mark.parametrize("name", PAPERS)
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
