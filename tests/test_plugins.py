"""Entries of other packages: every command knows them."""

import dataclasses
import functools
import json
import os
import pathlib
from contextlib import nullcontext

import jax
import jax.numpy as jnp
import pytest
from flax import linen as nn

from scm_jax import loading, networks, plugins
from scm_jax.defaults import get_defaults
from scm_jax.errors import ConfigError, UserError
from scm_jax.objectives import OBJECTIVES, spec
from scm_jax.sampler_kinds import KINDS
from scm_jax.training import resolve

MODULE = pathlib.Path(__file__).with_name("plugin_l1.py")


@pytest.fixture
def installed(tmp_path, monkeypatch):
  """`installed(name, text)`: a package with one module, which it names."""
  site = tmp_path / "site"

  def install(name: str, text: str) -> None:
    about = site / f"{name}-1.0.dist-info"
    about.mkdir(parents=True)
    (site / f"{name}.py").write_text(text)
    (about / "METADATA").write_text(f"Name: {name}\nVersion: 1.0\n")
    entry = f"[{plugins.GROUP}]\nmine = {name}\n"
    (about / "entry_points.txt").write_text(entry)

  monkeypatch.syspath_prepend(site)
  path = [str(site), *filter(None, [os.environ.get("PYTHONPATH")])]
  monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path))
  plugins.load.cache_clear()
  yield install
  plugins.load.cache_clear()


def test_a_module_is_imported_once(installed, monkeypatch):
  installed("counted", "import os\nos.environ['TIMES'] += 'x'\n")
  monkeypatch.setenv("TIMES", "")
  for _ in range(2):
    plugins.load()
  assert os.environ["TIMES"] == "x"


def test_what_it_prints_is_no_output_of_a_command(installed, capsys):
  installed("talkative", "print('hello')")
  plugins.load()
  assert capsys.readouterr() == ("", "hello\n")


@pytest.mark.parametrize(
  "text", ["import no_such", "raise SystemExit('no_such')"]
)
def test_one_that_fails_is_named(installed, text):
  installed("broken", text)
  with pytest.raises(UserError, match=r"plug-in mine .* broken .*no_such"):
    plugins.load()


@dataclasses.dataclass(frozen=True, kw_only=True)
class NoDefault(spec.Options):
  power: float


@dataclasses.dataclass(frozen=True)
class Own(networks.UNetConfig):
  """A class by which a family is told from the U-Net's."""


@pytest.mark.parametrize(
  ("change", "said"),
  [
    ({"kind": "consistancy"}, "'consistancy'; did you mean 'consistency'"),
    ({"sample": {"tmid": 0.8}}, "'tmid'; did you mean 't_mid'"),
    ({"options": NoDefault}, "NoDefault.power has no default"),
  ],
)
def test_an_objective_that_cannot_work(monkeypatch, change, said):
  own = dataclasses.replace(OBJECTIVES["sct"], **change)
  monkeypatch.setitem(OBJECTIVES, "mine", own)
  with pytest.raises(ConfigError, match=said):
    resolve.resolve(get_defaults("mine"))


@pytest.mark.parametrize(
  ("config", "said"),
  [
    (networks.UNetConfig, "the same config class UNetConfig"),
    (networks.UNet, "inherits from .*NetworkConfig"),
    (Own, None),
  ],
)
def test_a_network_that_cannot_work(monkeypatch, config, said):
  """One with the U-Net's own config would be the U-Net."""
  defaults = get_defaults()
  own = networks.Family(config, networks.UNet)
  monkeypatch.setitem(networks.FAMILIES, "mine", own)
  defaults.network.family = "mine"
  defaults.data.update(size=8, channels=1)
  expected = pytest.raises(ConfigError, match=said) if said else nullcontext()
  with expected:
    resolve.resolve(defaults)


@pytest.mark.parametrize("change", [lambda x: x[..., :1], jnp.bfloat16])
def test_an_output_that_would_be_broadcast_or_rounded(monkeypatch, change):
  class Wrong(nn.Module):
    config: Own

    @nn.compact
    def __call__(self, x, t, cond, train=False):
      return change(nn.Dense(3)(x))

  monkeypatch.setitem(networks.FAMILIES, "mine", networks.Family(Own, Wrong))
  config = Own(resolution=4, in_channels=3, num_classes=0, channel_mult=(1,))
  network, x = networks.build(config), jnp.zeros((2, 4, 4, 3))
  with pytest.raises(ConfigError, match=r"'mine' gives .* \[2, 4, 4, 3\]"):
    jax.eval_shape(network.F, network.shapes, x, jnp.ones(2), {})


def test_samples_of_another_shape(monkeypatch):
  """One image for a batch would else be all that a file holds."""
  known = KINDS["consistency"]

  def path(*args):
    x0, steps = known.path(*args)
    return x0[:1], steps

  own = dataclasses.replace(known, path=path)
  monkeypatch.setitem(KINDS, "consistency", own)
  with pytest.raises(ConfigError, match=r"'consistency' gives samples \[1, "):
    loading.load("mnist-scd").sample(num=2)


@pytest.mark.slow
@pytest.mark.usefixtures("data_dir")
def test_a_run_of_another_package(installed, python, tmp_path):
  """It is trained, drawn, exported and planned, in processes of their own."""
  installed("of_another_package", MODULE.read_text())
  workdir, config = f"--workdir={tmp_path}/run", f"--config={MODULE}"

  call = functools.partial(python, "-m", "scm_jax", cwd=tmp_path)
  call("train", config, workdir)
  known = json.loads((tmp_path / "run/config.json").read_text())
  assert known["objective"]["power"] == 1.5 and known["network"]["width"] == 7
  call("sample", workdir, "--num=4", f"--out={tmp_path}/drawn")
  call("export", workdir, f"--out={tmp_path}/exported", "--num=0")
  call("sample", f"--workdir={tmp_path}/exported", "--num=4", "--out=again")
  first, second = (
    (tmp_path / name / "samples.npz").read_bytes()
    for name in ("drawn", "again")
  )
  assert first == second
  plan = json.loads(call("plan", config, "--target=cpu:2", "--json"))
  assert plan["devices"] == 2
