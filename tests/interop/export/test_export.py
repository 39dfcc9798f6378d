"""The command `export`: the folder, reading it back, mistakes."""

import json
import pathlib
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scm_jax.cli import configs, main
from scm_jax.errors import ConfigError, UserError
from scm_jax.interop import export, export_folder
from scm_jax.networks import presets
from scm_jax.training import initialization, resolve, run_folder, workdir

DIGITS = pathlib.Path(__file__).parents[3] / "configs/digits.py"
SMALL = (
  "--config.network.channel_mult=(1,)",
  "--config.network.num_blocks=1",
  "--config.network.channels=8",
  "--config.ema=(0.05,0.1)",
)


@pytest.fixture(scope="module")
def run(random_weights, tmp_path_factory):
  """`run(kind)`: a workdir of averages with random weights."""
  folder = tmp_path_factory.mktemp("runs")

  def make(kind):
    path = folder / kind
    if path.exists():
      return path
    argv = [f"--config={DIGITS}:run={kind},tiny", *SMALL]
    config = configs.parse_config(argv)
    shapes = workdir.param_shapes(config)
    kept = {"0.050": random_weights(shapes), "0.100": random_weights(shapes, 1)}
    workdir.write_averages(path, config, kept, 7, {})
    return path

  return make


@pytest.fixture(scope="module")
def exported(run, tmp_path_factory):
  """`exported(kind, *argv)`: the folder that the command wrote."""
  root = tmp_path_factory.mktemp("exported")

  def write(kind, *argv):
    out = root / "-".join([kind, *argv]).replace("/", "_")
    if not out.exists():
      where = f"--workdir={run(kind)}", f"--out={out}"
      formats = "--formats=safetensors,diffusers"
      assert main.main(["export", *where, formats, "--num=4", *argv]) == 0
    return out

  return write


def leaves(params):
  return export_folder.flatten(params)


def test_files(exported):
  out = exported("sct", "--license=mit", "--name=Digits")
  assert {str(p.relative_to(out)) for p in out.rglob("*") if p.is_file()} == {
    "README.md",
    "config.json",
    "grid.png",
    "model.safetensors",
    "model_index.json",
    "pipeline.py",
    "scheduler/scheduler_config.json",
    "unet/config.json",
    "unet/diffusion_pytorch_model.safetensors",
    "unet/unet_trigflow.py",
  }
  about = json.loads((out / "config.json").read_text())
  assert about["kind"] == "consistency" and about["step"] == 7
  assert about["network"]["family"] == "unet"
  assert about["training"]["run"] == "sct"
  card = (out / "README.md").read_text()
  assert card.startswith("---\nlicense: mit\nlibrary_name: diffusers\n")
  assert "\n# Digits\n" in card and "![samples](grid.png)" in card


def test_read_back_wherever_a_workdir_is(exported, run, printed, tmp_path):
  out = exported("sct")
  theirs, about = workdir.load(out)
  ours, seen = workdir.load(run("sct"))
  assert (about["step"], about["ema"]) == (seen["step"], seen["ema"])
  assert about["config"].to_dict() == seen["config"].to_dict()
  assert theirs.codec == ours.codec and theirs.kind == "consistency"
  assert (theirs.t_mid, theirs.sigma_max) == (ours.t_mid, ours.sigma_max)
  for name, leaf in leaves(ours.params).items():
    np.testing.assert_array_equal(leaf, leaves(theirs.params)[name])
  for folder, name in ((out, "theirs"), (run("sct"), "ours")):
    argv = f"--workdir={folder}", f"--out={tmp_path / name}", "--num=10"
    printed("sample", *argv)
  samples = [np.load(tmp_path / n / "samples.npz") for n in ("theirs", "ours")]
  np.testing.assert_array_equal(*(s["samples"] for s in samples))


@pytest.fixture
def ones(tmp_path):
  """`ones(config)`: a workdir of that run, all of whose weights are 1."""

  def make(config):
    average = jax.tree.map(
      lambda leaf: jnp.ones(leaf.shape, leaf.dtype),
      workdir.param_shapes(config),
    )
    workdir.write_averages(tmp_path / "run", config, {"0.100": average}, 7, {})
    return tmp_path / "run"

  return make


def test_a_network_without_a_pytorch_module(ones, command, tmp_path, caplog):
  """Whatever else it has is written unless the user asks for more."""
  fields = ("channels=4", "channel_mult=(1,)", "num_blocks=1")
  fields += ("augment=True",)  # an input of training, which no export has
  argv = [f"--config.network.{field}" for field in fields]
  config = configs.parse_config([f"--config={DIGITS}:run=sct,tiny", *argv])
  config.network.family = "ddpmpp"
  run = ones(config)
  argv = [f"--workdir={run}", f"--out={tmp_path}/x", "--num=0", "--steps=1"]
  code, out, err = command("export", *argv)
  assert code == 0, err
  [message] = caplog.messages
  assert "diffusers is left out" in message and "ddpmpp" in message
  written = {path.name for path in (tmp_path / "x").iterdir()}
  assert written == {
    "README.md",
    "config.json",
    "model.safetensors",
    "stablehlo",
  }
  code, out, err = command("export", *argv, "--formats=diffusers")
  assert code == 2 and "for U-Nets and transformers" in err


@pytest.mark.parametrize("layers", ["scm", "sit"])
def test_a_transformer_is_written_for_diffusers(
  layers, ones, printed, tmp_path
):
  """By default, as a U-Net is."""
  file = DIGITS.with_name("digits_dit.py")
  config = configs.parse_config([f"--config={file}:run=sct,tiny"])
  if layers == "sit":
    config.network.update(presets.DIT_LAYERS | {"form": "sit"})
  out = tmp_path / "x"
  printed("export", f"--workdir={ones(config)}", f"--out={out}", "--num=0")
  assert {path.name for path in (out / "unet").iterdir()} == {
    "config.json",
    "diffusion_pytorch_model.safetensors",
    "dit_trigflow.py",
  }
  index = json.loads((out / "model_index.json").read_text())
  assert index["unet"] == ["dit_trigflow", "DiTTrigFlow"]
  card = (out / "README.md").read_text()
  assert "library_name: diffusers\n" in card and "DiffusionPipeline" in card


def test_an_export_of_an_export(exported, printed, tmp_path):
  out = exported("sct")
  argv = f"--workdir={out}", f"--out={tmp_path}/x", "--num=0"
  printed("export", *argv, "--formats=safetensors")
  again = (tmp_path / "x/model.safetensors").read_bytes()
  assert again == (out / "model.safetensors").read_bytes()


def test_a_teacher_teaches(exported, tmp_path):
  """As the teacher of a student, whose record names the export."""
  out = exported("teacher")
  argv = [f"--config={DIGITS}:run=scd,tiny", *SMALL]
  config = configs.parse_config([*argv, f"--config.teacher={out}"])
  with pytest.raises(ConfigError, match="guide=snapshots/4 .* is an export"):
    initialization.load_teacher(resolve.resolve(config), tmp_path, begun=False)
  argv.append("--config.guide=")
  config = configs.parse_config([*argv, f"--config.teacher={out}"])
  teacher = initialization.load_teacher(
    resolve.resolve(config), tmp_path, begun=False
  )
  assert teacher.kind == "diffusion"
  assert json.loads((tmp_path / "teacher.json").read_text())["step"] == 7
  initialization.load_teacher(resolve.resolve(config), tmp_path, begun=True)
  config = configs.parse_config([*argv, f"--config.teacher={exported('sct')}"])
  with pytest.raises(ConfigError, match="not a diffusion teacher"):
    initialization.load_teacher(resolve.resolve(config), tmp_path, begun=False)


def test_averages(exported, run):
  first, second = exported("sct"), exported("sct", "--ema=0.1")
  kept = [json.loads((p / "config.json").read_text()) for p in (first, second)]
  assert {about["ema"] for about in kept} == {"0.050", "0.100"}
  model, _ = workdir.load(second, 0.1)
  wanted, _ = workdir.load(run("sct"), 0.1)
  np.testing.assert_array_equal(
    model.params["denoiser"]["conv_in"]["weight"],
    wanted.params["denoiser"]["conv_in"]["weight"],
  )
  with pytest.raises(
    UserError, match="an export of the EMA weights 0.100 alone"
  ):
    workdir.load(second, 0.05)


@pytest.mark.parametrize("dtype", ["bfloat16"])
def test_narrow_types(dtype, exported, run):
  out = exported("sct", f"--dtype={dtype}")
  model, about = workdir.load(out)
  assert model.network.config.dtype == jnp.dtype(dtype)
  assert about["config"].network.dtype == dtype
  wanted = leaves(workdir.load(run("sct"))[0].params)
  for name, leaf in leaves(model.params).items():
    assert leaf.dtype == jnp.float32
    rounded = wanted[name].astype(dtype) if leaf.ndim > 1 else wanted[name]
    np.testing.assert_array_equal(leaf, rounded.astype(jnp.float32))
  size = lambda p: (p / "model.safetensors").stat().st_size
  assert size(out) < 0.7 * size(exported("sct"))


def test_a_guide_is_part_of_it(model_of, export_of):
  model = model_of("teacher-guided")
  back, _ = export_folder.read(export_of("teacher-guided", formats=()))
  assert back.guidance_network.config == model.guidance_network.config
  for name, leaf in leaves(model.weights).items():
    np.testing.assert_array_equal(leaf, leaves(back.weights)[name])


def test_training_does_not_write_into_an_export(exported):
  out = exported("sct")
  config = workdir.load_config(out)
  with pytest.raises(ConfigError, match="is an export; choose another"):
    run_folder.open_for(config, str(out))


def test_a_report_goes_along(model_of, tmp_path):
  record = {"name": "sCD, 1 step", "steps": 1, "nfe": 1, "num": 1797}
  report = {
    "runs": [record | {"fd": {"classifier": 0.1423456}}],
    "reference": {"dataset": "scm_digits"},
  }
  request = export.Request(formats=(), num=0)
  origin = export.Origin({"run": "scd"}, 1, "0.050")
  out = export.write(
    model_of("student"), origin, tmp_path / "x", request, report
  )
  assert json.loads((out / "report.json").read_text()) == report
  card = (out / "README.md").read_text()
  assert "| sCD, 1 step | 1 | 1 | 0.1423 | 1797 |" in card
  assert "Fréchet distances (FD) to scm_digits" in card


def test_scores_of_other_weights_do_not():
  """A report may have those of other averages, steps, runs and guides."""
  weights = {"objective": "scd", "training_step": 8, "ema": "0.050"}
  ours = weights | {"fd": {"pixels": 1.0}}
  others = [ours | {"ema": "0.100"}, ours | {"training_step": 4}, weights]
  others += [ours | {"objective": "sct"}, ours | {"guide": {"step": 4}}]
  others += [ours | {"fd": fd} for fd in (None, {}, [1], {"pixels": None})]
  origin = export.Origin({"run": "scd"}, 8, "0.050")
  for report in ([1], {"runs": []}, {"runs": 3}, {"runs": [1, *others]}, None):
    assert export.scores(report, origin, "runs/a") is None
  both = {"runs": [*others, ours], "reference": {"dataset": "x"}}
  assert export.scores(both, origin, "runs/a") == both | {"runs": [ours]}
  seeds = [ours | {"workdir": f"runs/{name}"} for name in "ab"]
  found = export.scores({"runs": seeds}, origin, "./runs/a")
  assert found == {"runs": seeds[:1]}


def test_whole_or_not_at_all(model_of, tmp_path, monkeypatch):
  """What fails leaves nothing, or the export that was there before."""
  origin = export.Origin({"run": "scd"}, 1, "0.050")
  request = export.Request(formats=(), num=0)
  model, out = model_of("student"), tmp_path / "x"

  def fail(*args):
    raise OSError(28, "No space left on device", "model.safetensors")

  with monkeypatch.context() as patch:
    patch.setattr(export, "_model_card", fail)
    with pytest.raises(UserError, match="x: No space"):
      export.write(model, origin, out, request)
    assert not list(tmp_path.iterdir())
  export.write(model, origin, out, request)
  monkeypatch.setattr(export, "_model_card", fail)
  with pytest.raises(UserError, match="x: No space"):
    export.write(model, origin._replace(step=2), out, request)
  assert export_folder.read(out)[1].step == 1
  monkeypatch.undo()
  export.write(model, origin._replace(step=2), out, request)
  assert export_folder.read(out)[1].step == 2
  assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_other_files_are_not_replaced(model_of, tmp_path):
  origin = export.Origin({}, 1, "")
  (tmp_path / "mine").write_text("mine")
  for out, said in ((tmp_path, "not an export"), (tmp_path / "mine", "a file")):
    with pytest.raises(ConfigError, match=said):
      export.write(model_of("student"), origin, out, export.Request(formats=()))
  assert (tmp_path / "mine").read_text() == "mine"


@pytest.mark.parametrize("name", ["student", "decoded", "dit-teacher", "map"])
def test_an_export_may_replace_all_that_it_wrote(export_of, name):
  written = {path.name for path in export_of(name).iterdir()}
  assert written <= export.WRITTEN


def test_what_was_put_into_an_export_is_kept(model_of, export_of, tmp_path):
  """Such as samples, or a repository; all that an export writes may go."""
  origin = export.Origin({}, 1, "")
  request = export.Request(formats=(), num=0)
  out = tmp_path / "x"
  shutil.copytree(export_of("student"), out)
  (out / ".git").mkdir()
  (out / "samples").mkdir()
  with pytest.raises(ConfigError, match=r"no export writes \(.git, samples\)"):
    export.write(model_of("student"), origin, out, request)
  (out / ".git").rmdir()
  (out / "samples").rmdir()
  export.write(model_of("student"), origin, out, request)


def test_nor_those_in_a_folder_named_like_a_shipped_export(
  model_of, tmp_path, monkeypatch
):
  monkeypatch.chdir(tmp_path)
  out = pathlib.Path(export_folder.pretrained()[0])
  out.mkdir()
  (out / "mine").write_text("mine")
  origin = export.Origin({}, 1, "")
  with pytest.raises(ConfigError, match="not an export"):
    export.write(model_of("student"), origin, out, export.Request(formats=()))
  assert (out / "mine").read_text() == "mine"


@pytest.mark.parametrize(
  "argv, said",
  [
    (["--formats=onxx"], "no format 'onxx'; did you mean"),
    (["--formats=,"], "--formats: ','"),
    (["--steps=1,0"], "--steps is 0; it must be positive"),
    (["--steps=2,2"], "--steps has a number twice"),
    (["--num=-1"], "--num is -1"),
    (["--dtype=int8"], "invalid choice: 'int8'"),
    (["--license=other: mine"], "a licence's short name"),
    (["--out=gs://bucket/x"], "an export is written to a local disk"),
  ],
)
def test_mistakes(argv, said, run, refused, tmp_path):
  given = [f"--out={tmp_path}/x"] if "--out" not in argv[0] else []
  line = refused(2, "export", f"--workdir={run('sct')}", *given, *argv)
  assert said in line
  assert not list(tmp_path.iterdir())


def test_damaged_exports(exported, tmp_path):
  out = exported("sct")
  for name, change, said in (
    ("config.json", lambda about: about.pop("codec"), "damaged"),
    ("config.json", lambda about: about.update(version=9), "reads up to 1"),
    (
      "config.json",
      lambda about: about["network"].update(channels=16),
      "does not fit config.json",
    ),
  ):
    about = json.loads((out / name).read_text())
    change(about)
    (tmp_path / name).write_text(json.dumps(about))
    (tmp_path / "model.safetensors").write_bytes(
      (out / "model.safetensors").read_bytes()
    )
    with pytest.raises(UserError, match=said):
      workdir.load(tmp_path)
