"""StableHLO programs draw the trainer's samples, with jax alone."""

import dataclasses
import functools
import json
import pathlib

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest

from scm_jax.errors import ConfigError
from scm_jax.interop import export_folder, stablehlo

EXAMPLE = pathlib.Path(__file__).parents[3] / "examples/sample_stablehlo.py"
LABELS = np.array([0, 2, 3, 1, 0], np.int32)  # 3 is "no label"


def relative(a, b):
  return np.linalg.norm(a - b) / np.linalg.norm(b)


@pytest.fixture(scope="module")
def load(model_of):
  """`load(name, steps, dtype, **fields)`: a program with parameters bound."""

  @functools.cache
  def run(name, steps, dtype="float32", **fields):
    sampler = export_folder.as_computed(model_of(name), dtype)
    weights = export_folder.cast(sampler.weights, dtype)
    variant = stablehlo.Variant(steps, **fields)
    program = stablehlo.program(sampler.with_weights(weights), variant)
    call = jax.jit(jax.export.deserialize(bytearray(program.data)).call)
    return functools.partial(call, export_folder.flatten(weights))

  return run


def random_noise(model, steps, batch):
  shape = model.noise_draws(steps), batch, *model.data_shape
  return np.random.default_rng(1).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize(
  "name, steps, guidance",
  [
    ("student", 1, 1.7),
    ("student-edm2", 2, 1.7),
    pytest.param("unlabelled", 2, 1.0, marks=pytest.mark.slow),
    pytest.param("unlabelled-edm2", 1, 1.0, marks=pytest.mark.slow),
    ("teacher", 2, 1.0),
    pytest.param("teacher-edm2", 2, 1.7, marks=pytest.mark.slow),
    ("teacher-guided", 1, 1.7),
    ("teacher-limited", 4, 1.7),
  ],
)
def test_samples_agree_with_the_trainers(
  name, steps, guidance, load, model_of, draw
):
  model = model_of(name)
  call = load(name, steps, guided=guidance != 1 and model.kind == "diffusion")
  noise = random_noise(model, steps, 5)
  images, data = call(noise, LABELS, np.float32(guidance))
  expected = draw(model, noise, LABELS, steps, guidance)
  assert relative(np.asarray(data), expected) < 1e-4
  levels = np.clip(np.round((expected + 1) * 127.5), 0, 255)
  assert images.dtype == jnp.uint8
  assert np.abs(np.asarray(images) - levels).max() <= 1


def test_batches_of_any_size(load, model_of):
  model = model_of("student")
  call = load("student", 1, guided=False)
  noise = random_noise(model, 1, 5)
  five, _ = call(noise, LABELS, np.float32(1))
  two, _ = call(noise[:, :2], LABELS[:2], np.float32(1))
  np.testing.assert_allclose(np.int32(two), np.int32(five[:2]), atol=1)


def test_a_seed_draws_what_the_command_draws(load, model_of):
  model = model_of("student")
  call = load("student", 1, noise=False)
  index = np.arange(5, dtype=np.int32)
  images, _ = call(np.int32(3), index, LABELS, np.float32(1))
  expected = model.sample(LABELS, steps=1, seed=3)
  np.testing.assert_allclose(np.int32(images), np.int32(expected), atol=1)
  assert np.std(expected) > 10


def test_baked_programs_need_no_parameters(load, model_of):
  program = stablehlo.program(
    model_of("student"), stablehlo.Variant(1), baked=True
  )
  call = jax.jit(jax.export.deserialize(bytearray(program.data)).call)
  given = load("student", 1, guided=False)
  args = random_noise(model_of("student"), 1, 2), LABELS[:2], np.float32(1)
  np.testing.assert_allclose(call(*args)[1], given(*args)[1], atol=1e-5)


@pytest.mark.parametrize("dtype, most", [("bfloat16", 0.05), ("float16", 0.01)])
def test_narrow_types(dtype, most, load, model_of, draw):
  """Stored and computed in; the bounds are those that docs/export.md states."""
  call = load("student", 1, dtype)
  noise = random_noise(model_of("student"), 1, 5)
  _, data = call(noise, LABELS, np.float32(1))
  error = relative(data, draw(model_of("student"), noise, LABELS, 1))
  assert 1e-4 < error < most


def test_what_is_written(export_of):
  folder = export_of("teacher", formats=("stablehlo",), steps=(1,))
  about = json.loads((folder / "stablehlo/programs.json").read_text())
  files = {path.name for path in (folder / "stablehlo").iterdir()}
  programs = {program["file"]: program for program in about["programs"]}
  assert files == {"programs.json", *programs}
  assert len(programs) == 4  # noise or a seed, guided or not
  program = programs["sample_1_guided_noise.jaxexport"]
  assert program["platforms"] == ["cpu", "cuda", "tpu"]
  assert (program["steps"], program["evaluations"]) == (1, 2)
  data = (folder / "stablehlo" / program["file"]).read_bytes()
  exported = jax.export.deserialize(bytearray(data))
  assert exported.platforms == ("cpu", "cuda", "tpu")
  names = [argument["name"] for argument in program["arguments"]]
  assert names == ["params", "noise", "label", "guidance"]


def test_networks_that_cannot_be_guided_have_no_guided_programs(
  model_of, monkeypatch
):
  """By the rule that refuses the scale in Python and on the command line."""
  monkeypatch.setattr(
    stablehlo, "program", lambda sampler, variant, **_: variant
  )
  guided = lambda s: {v.guided for v in stablehlo.programs(s, [1])}
  never = {"unconditional": False}
  assert guided(model_of("teacher")) == {False, True}
  assert guided(dataclasses.replace(model_of("teacher"), **never)) == {False}
  second = dataclasses.replace(model_of("teacher-guided"), **never)
  assert guided(second) == {False, True}
  assert guided(model_of("student")) == {False}  # the scale is an input


def test_too_many_parameters_to_bake_in(model_of, monkeypatch):
  monkeypatch.setattr(stablehlo, "LIMIT", 1000)
  with pytest.raises(ConfigError, match="--bake: .* GiB"):
    next(stablehlo.programs(model_of("student"), [1], baked=True))


@pytest.mark.parametrize(
  "name, bake",
  [
    ("student", False),
    ("student", True),
    pytest.param("decoded", False, marks=pytest.mark.slow),
  ],
)
def test_the_example_needs_jax_alone(
  name, bake, export_of, model_of, python, tmp_path
):
  """Neither scm_jax nor flax can be imported where it runs."""
  folder = export_of(name, formats=("stablehlo",), steps=(1,), bake=bake)
  code = (
    "import runpy, sys; sys.modules.update(scm_jax=None, flax=None); "
    "del sys.argv[0]; runpy.run_path(sys.argv[0])"
  )
  quick = {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
  python("-c", code, EXAMPLE, folder, 1, cwd=tmp_path, **quick)
  drawn = np.load(tmp_path / "samples.npz")["samples"]
  model = model_of(name)
  labels = np.arange(10) % model.network.config.num_classes
  expected = model.sample(labels, steps=1)
  assert drawn.dtype == np.uint8
  np.testing.assert_allclose(np.int32(drawn), np.int32(expected), atol=1)
