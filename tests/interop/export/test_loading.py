"""`scm_jax.load`: sampling from Python."""

import dataclasses
import functools
import json
import pathlib
import shutil

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import scm_jax
from scm_jax import editing
from scm_jax.cli import configs
from scm_jax.errors import UserError
from scm_jax.interop import export, export_folder
from scm_jax.training import workdir
from scm_jax.training.checkpoints import storage

DIGITS = pathlib.Path(__file__).parents[3] / "configs/digits.py"
LABELS = (0, 2, 1)


@pytest.fixture(scope="module")
def sampler(export_of):
  return scm_jax.load(export_of("student", formats=()))


@pytest.fixture(scope="module")
def images(sampler):
  return sampler.sample([0, 2, 1])


def test_images(sampler, images, model_of):
  assert images.shape == (3, 4, 4, 1) and images.dtype == np.uint8
  expected = model_of("student").sample(np.array([0, 2, 1]), steps=2)
  np.testing.assert_allclose(np.int32(images), np.int32(expected), atol=1)
  assert images.std() > 20


def test_labels_and_numbers(sampler, images):
  np.testing.assert_array_equal(sampler.sample((0, 2, 1), num=3), images)
  assert sampler.sample(1, num=3).shape == images.shape
  every = sampler.sample()  # 0, 1, 2
  np.testing.assert_array_equal(every[0], images[0])
  assert len(every) == 3 and not np.array_equal(every[1], images[1])


def test_options_act(sampler, images):
  for option in ({"seed": 1}, {"guidance": 1.7}):
    changed = sampler.sample([0, 2, 1], **option)
    assert changed.shape == images.shape
    assert not np.array_equal(changed, images)


def test_one_program_for_a_shape(sampler):
  """Whatever the labels, the seed and the scale."""
  network = sampler.network
  once = network._replace(F=chex.assert_max_traces(network.F, n=1))
  counted = dataclasses.replace(sampler, network=once)
  for seed in range(2):
    counted.sample([seed] * 3, steps=1, seed=seed, guidance=1 + seed)
  chex.clear_trace_counter()


@pytest.mark.slow
@pytest.mark.usefixtures("compile_into")  # for its end: `load` chooses a folder
def test_kept_programs(export_of, images, tmp_path):
  """What one process compiled, the next reads: nothing is added."""
  compiled = tmp_path / "compiled"
  folder, kept = export_of("student", formats=()), []
  for _ in range(2):
    jax.clear_caches()  # as in a new process
    sampler = scm_jax.load(folder, compiled=compiled)
    np.testing.assert_array_equal(sampler.sample(LABELS), images)
    kept.append(sorted(file.name for file in compiled.glob("*-cache")))
  assert kept[0] == kept[1]
  assert any("draw_from_seed" in name for name in kept[0])


def test_defaults_of_a_teacher(export_of):
  teacher = scm_jax.load(export_of("teacher", formats=()))
  assert teacher.steps == 32  # of a run whose config does not say
  assert teacher.sample([0], steps=2).shape == (1, 4, 4, 1)


def test_an_export_draws_as_its_run_was_configured(model_of, tmp_path):
  """As `scm-jax sample` does; exports of before have the config, too."""
  config = {"run": "scd", "sample": {"guidance": 1.7}, "network": {}}
  origin = export.Origin(config, 7, "0.050")
  request = export.Request(formats=("diffusers",), num=0)
  tuned = dataclasses.replace(model_of("student"), guidance=1.7)
  folder = export.write(tuned, origin, tmp_path / "export", request)
  loaded, labels = scm_jax.load(folder), np.array(LABELS)
  assert loaded.guidance == 1.7
  images = loaded.sample(LABELS)
  explicit = loaded.sample(LABELS, guidance=1.7)
  np.testing.assert_array_equal(images, explicit)
  assert not np.array_equal(images, loaded.sample(LABELS, guidance=1.0))
  read, _ = workdir.load(folder)
  assert_close(read.sample(labels), images)
  index = json.loads((folder / "model_index.json").read_text())
  assert index["guidance"] == 1.7

  # A teacher that was always given labels takes no scale, whatever is said.
  config = {"sample": {"guidance": 1.7, "solver_steps": 3}}
  limits = {"guidance_interval": [0.3, 2.9], "guidance_channels": 1}
  config["sample"] |= limits
  config |= {"objective": {"label_dropout": 0.0}, "run": "teacher"}
  origin = export.Origin(config, 7, "0.050")
  request = export.Request(formats=(), num=0)
  folder = export.write(model_of("teacher"), origin, tmp_path / "t", request)
  teacher = scm_jax.load(folder)
  assert (teacher.steps, teacher.guidance_scale()) == (3, 1.0)
  assert teacher.guidance_interval == (0.3, 2.9)
  assert teacher.guidance_channels == 1


def assert_close(a, b):
  """Equal but for the rounding of programs that sum in different orders."""
  assert a.shape == b.shape and a.dtype == b.dtype == np.uint8
  np.testing.assert_allclose(np.int32(a), np.int32(b), atol=1)


def test_noise_is_an_argument(sampler, images):
  noise = sampler.noise(3, steps=2)
  assert noise.shape == (2, 3, 4, 4, 1)
  assert_close(sampler.from_noise(noise, LABELS), images)
  turned = sampler.from_noise(noise[:, ::-1], LABELS[::-1])
  assert_close(turned, images[::-1])


def test_paths_end_at_the_samples(sampler, images):
  path = sampler.path(sampler.noise(3, steps=2), LABELS)
  np.testing.assert_allclose(path.times, [np.arctan(80 / 0.5), 1.1], rtol=1e-6)
  assert path.x_t.shape == path.x0.shape == (2, 3, 4, 4, 1)
  assert_close(path.x0[-1], images)
  # The first is noise of the data's deviation about its mean.
  codec, noise = sampler.codec, sampler.noise(3, steps=2)
  seen = (noise[0] * codec.std + codec.mean + 1) * 127.5
  assert_close(path.x_t[0], np.uint8(np.clip(np.rint(seen), 0, 255)))


def test_paths_of_a_teacher(export_of):
  teacher = scm_jax.load(export_of("teacher", formats=()))
  noise = teacher.noise(2, steps=3)
  assert noise.shape == (1, 2, 4, 4, 1)
  path = teacher.path(noise, [0, 1], steps=3, guidance=1.5)
  assert path.x0.shape == (3, 2, 4, 4, 1) and (np.diff(path.times) < 0).all()
  assert_close(path.x0[-1], teacher.sample([0, 1], steps=3, guidance=1.5))
  with pytest.raises(UserError, match="has 2 draws, but this sampler takes 1"):
    teacher.from_noise(np.zeros((2, 1, 4, 4, 1)), 0)
  with pytest.raises(UserError, match="cannot edit images; load a student"):
    teacher.edit(path.x0[-1], known=[[True]])


def test_edits(sampler, images):
  given, left = images[::-1], np.arange(4) < 2
  drawn = sampler.edit(given, LABELS, known=left)  # columns
  np.testing.assert_array_equal(drawn[:, :, left], given[:, :, left])
  assert (drawn[:, :, ~left] != given[:, :, ~left]).mean() > 0.5
  # Nothing known is an ordinary sample; everything, the images as they are.
  assert_close(sampler.edit(given, LABELS, known=[[False]]), images)
  every = sampler.edit(given, LABELS, known=[[True]])
  np.testing.assert_array_equal(every, given)
  one = np.ones((3, 1, 1, 1), bool)
  one[1] = False  # masks of one image each
  drawn = sampler.edit(given, LABELS, known=one)
  np.testing.assert_array_equal(drawn[::2], given[::2])
  assert_close(drawn[1], images[1])


def test_edits_of_patches_and_strokes(sampler, images):
  given = images[::-1]
  drawn = sampler.edit(given, LABELS, known=editing.patch_means(2))
  inner = (drawn > 0) & (drawn < 255)  # the rest was clipped
  means = lambda x: x.reshape(3, 2, 2, 2, 2).mean((2, 4))
  whole = inner.reshape(3, 2, 2, 2, 2).all((2, 4))
  assert whole.any()
  np.testing.assert_allclose(means(drawn)[whole], means(given)[whole], atol=0.6)
  near = sampler.edit(given, LABELS, start=0.01, steps=1)
  far = sampler.edit(given, LABELS, start=1.5, steps=1)
  distance = lambda x: np.abs(np.int32(x) - given).mean()
  assert distance(near) < 10 < distance(far)


@pytest.mark.parametrize(
  "arguments, said",
  [
    ({}, "an edit needs known, or start"),
    ({"start": 2.0}, "start is 2, but must lie between 0 and pi/2"),
    (
      {"known": np.ones((3, 3), bool)},
      r"images of the shape \[3, 4, 4",
    ),
    (
      {"known": editing.patch_means(3)},
      "patches of 3x3 do not fill images",
    ),
    (
      {"images": np.zeros((3, 8, 8, 1), np.uint8), "start": 1.0},
      r"images must be uint8 \[N, 4, 4, 1\], not uint8 \[3, 8, 8, 1\]",
    ),
  ],
)
def test_mistakes_of_edits(arguments, said, sampler, images):
  with pytest.raises(UserError, match=said):
    sampler.edit(**{"images": images, "labels": 0} | arguments)


@pytest.mark.parametrize(
  "noise, steps, said",
  [
    (
      np.zeros((1, 2, 8, 8, 1)),
      None,
      r"shape \[draws, N, 4, 4, 1\]",
    ),
    (
      np.zeros((2, 1, 4, 4, 1)),
      3,
      "has 2 draws, but this sampler takes 3",
    ),
  ],
)
def test_mistakes_of_noise(noise, steps, said, sampler):
  with pytest.raises(UserError, match=said):
    sampler.from_noise(noise, 0, steps=steps)


def test_one_of_several_checkpoints(tmp_path):
  """By its own path, wherever a workdir will do."""
  small = ("channel_mult=(1,)", "num_blocks=1", "channels=8")
  small = [f"--config.network.{field}" for field in small]
  config = configs.parse_config([f"--config={DIGITS}:run=sct,tiny", *small])
  shapes = workdir.param_shapes(config)
  average = lambda step: jax.tree.map(
    lambda leaf: jnp.full(leaf.shape, step, leaf.dtype), shapes
  )
  run = workdir.write_averages(
    tmp_path / "run", config, {"0.100": average(3.0)}, 3, {}
  )
  checkpoints = storage.Checkpoints(run, keep=2)
  checkpoints.save_ema({"0.100": average(5.0)}, 5)
  checkpoints.close()
  gain = lambda path: float(scm_jax.load(path).params["denoiser"]["out_gain"])
  assert gain(run) == gain(run / "checkpoints/5") == 5.0
  assert gain(str(run / "checkpoints/3")) == 3.0
  assert workdir.load(run / "checkpoints/3")[1]["step"] == 3
  with pytest.raises(UserError, match="no checkpoint of step 4; it has 3, 5"):
    scm_jax.load(run / "checkpoints/4")


@pytest.mark.parametrize(
  "part", [("network", "family"), ("kind",), ("sampler", "solver")]
)
def test_an_export_of_a_package_that_is_not_installed(
  export_of, tmp_path, part
):
  folder = export_of("teacher", formats=())
  content = json.loads((folder / "config.json").read_text())
  *groups, name = part
  functools.reduce(dict.__getitem__, groups, content)[name] = "theirs"
  (tmp_path / "config.json").write_text(json.dumps(content))
  with pytest.raises(UserError, match="'theirs'.* install the package"):
    scm_jax.load(tmp_path)


def test_an_export_that_is_replaced_while_it_is_read(
  export_of, tmp_path, monkeypatch
):
  """Its config and its weights are of one step."""
  folder = shutil.copytree(export_of("student", formats=()), tmp_path / "best")
  file, once = folder / "config.json", export_folder._read_weights
  newer = json.loads(file.read_text()) | {"step": 8}

  def replaced(*args):
    found = once(*args)
    file.write_text(json.dumps(newer))
    return found

  monkeypatch.setattr(export_folder, "_read_weights", replaced)
  _, origin = export_folder.read(folder)
  assert origin.step == 8


def test_an_export_holds_one_ema(export_of):
  """By Python as by the command line; `average` is the former name."""
  folder = export_of("student", formats=())
  scm_jax.load(folder, ema=0.05)
  for arguments in ({"ema": 0.1}, {"average": 0.1}):
    with pytest.raises(UserError, match="EMA weights 0.050 alone"):
      scm_jax.load(folder, **arguments)


def test_weights_in_bfloat16(export_of, images):
  sampler = scm_jax.load(export_of("student", formats=()), dtype="bfloat16")
  weight = sampler.params["denoiser"]["conv_in"]["weight"]
  assert weight.dtype == jnp.bfloat16
  drawn = sampler.sample([0, 2, 1])
  error = np.abs(np.int32(drawn) - np.int32(images))
  assert 0 < error.max() and error.mean() < 3
  for unknown in ("bf16", "int8", "float64"):
    with pytest.raises(UserError, match=f"dtype is '{unknown}'"):
      scm_jax.load(export_of("student", formats=()), dtype=unknown)


@pytest.mark.parametrize(
  "name, arguments, said",
  [
    ("student", {"labels": [4]}, "4 is not a label of this network"),
    ("student", {"labels": []}, "nothing to draw"),
    ("student", {"num": -1}, "nothing to draw"),
    ("unlabelled", {"labels": [0]}, "takes no labels"),
    ("unlabelled", {"guidance": 2}, "trained without guidance"),
  ],
)
def test_mistakes(name, arguments, said, export_of):
  with pytest.raises(UserError, match=said):
    scm_jax.load(export_of(name, formats=())).sample(**arguments)


def test_what_is_no_model(tmp_path):
  with pytest.raises(UserError, match="not a workdir"):
    scm_jax.load(tmp_path)
  with pytest.raises(AttributeError, match="no attribute 'lod'"):
    scm_jax.lod  # noqa: B018


@pytest.mark.slow
def test_two_devices_and_the_light_core(
  export_of, sampler, images, python, tmp_path
):
  """The same images from a batch cut in two, without training's packages."""
  path = str(export_of("student", formats=()))
  code = f"""
import sys
heavy = "clu grain matplotlib ml_collections PIL sklearn tensorflow"
sys.modules.update(dict.fromkeys(heavy.split()))
import numpy as np, scm_jax
sampler = scm_jax.load({path!r})
assert sampler.devices == 2
np.save("images.npy", images := sampler.sample([0, 2, 1]))
path = sampler.path(sampler.noise(3), [0, 2, 1])
edited = sampler.edit(images, [0, 2, 1], known=[[True, False, False, True]])
np.savez("rest.npz", path=path.x0[-1], edited=edited)
try:
  scm_jax.load(".")
except Exception as error:
  print(error)
"""
  two = {"JAX_NUM_CPU_DEVICES": "2", "JAX_PLATFORMS": "cpu"}
  quick = {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
  said = python("-c", code, cwd=tmp_path, **two, **quick)
  drawn, rest = np.load(tmp_path / "images.npy"), np.load(tmp_path / "rest.npz")
  assert_close(drawn, images)
  assert_close(rest["path"], images)
  columns = [[True, False, False, True]]
  assert_close(rest["edited"], sampler.edit(drawn, LABELS, known=columns))
  assert "pip install 'scm-jax[train]'" in said


def test_a_networks_name_is_an_export_that_comes_with_the_package(
  export_of, tmp_path, monkeypatch
):
  """Unless the current folder has one of that name."""
  folder = export_of("student", formats=("safetensors",))
  monkeypatch.setattr(export_folder, "PRETRAINED", folder.parent)
  monkeypatch.chdir(tmp_path)
  assert folder.name in export_folder.pretrained()
  named = scm_jax.load(folder.name).sample([0, 1])
  np.testing.assert_array_equal(named, scm_jax.load(folder).sample([0, 1]))
  (tmp_path / folder.name).mkdir()
  assert export_folder.find(folder.name) == folder
  shutil.copy(folder / export_folder.CONFIG, tmp_path / folder.name)
  assert export_folder.find(folder.name).resolve().parent == tmp_path
