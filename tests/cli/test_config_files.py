"""Which file a config's name means, and what a config file may import."""

import pathlib
import sys

import pytest

from scm_jax.cli import config_files, configs
from scm_jax.errors import ConfigError

SHIPPED = pathlib.Path(__file__).parents[2] / "configs"
OWN = """
from configs import digits

def get_config(arg=""):
  config = digits.get_config(arg)
  config.seed = 7
  return config
"""


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
  """Works in an empty folder, without what other tests imported."""

  def forget():
    for name in [n for n in sys.modules if n.partition(".")[0] == "configs"]:
      del sys.modules[name]

  monkeypatch.chdir(tmp_path)
  forget()
  yield tmp_path
  forget()


def parse(config: str):
  return configs.parse_config([f"--config={config}"])


def write(path: pathlib.Path, text: str = OWN) -> pathlib.Path:
  path.parent.mkdir(exist_ok=True)
  path.write_text(text)
  return path


def mistake(config: str) -> str:
  with pytest.raises(ConfigError) as error:
    parse(config)
  assert "\n" not in str(error.value)
  return str(error.value)


def test_a_shipped_config_is_found_by_name_from_anywhere():
  for argument in ("run=scd,tiny", "run=teacher"):
    by_name = parse(f"digits:{argument}")
    assert by_name == parse(f"{SHIPPED / 'digits.py'}:{argument}")
  (sweep, *_), (same, *_) = map(
    configs.load_sweep, ("digits", str(SHIPPED / "digits.py"))
  )
  assert repr(sweep) == repr(same)


def test_every_file_with_a_config_is_shipped_under_its_name():
  shipped = config_files.names()
  for path in SHIPPED.glob("*.py"):
    if path.stem in shipped:
      assert parse(path.stem).batch_size > 0
    else:
      assert "has no function get_config" in mistake(str(path))


def test_the_configs_of_the_current_folder_come_first(elsewhere):
  write(elsewhere / "configs" / "mnist.py")
  assert parse("mnist:tiny").seed == 7
  assert parse("digits:tiny").seed == 0
  write(elsewhere / "mnist", OWN.replace("7", "8"))
  assert parse("mnist:tiny").seed == 8
  # A script of this name may be anything; it takes its path to be a config.
  write(elsewhere / "digits.py")
  assert parse("digits:tiny").seed == 0
  assert parse("digits.py:tiny").seed == 7


@pytest.mark.parametrize("path", ["mine.py", "configs/mine.py", "deep/mine.py"])
def test_a_config_of_ones_own_may_import_a_shipped_one(elsewhere, path):
  write(elsewhere / path)
  searched = list(sys.path)
  assert parse(f"{path}:tiny").seed == 7
  assert sys.path == searched


def test_a_name_that_is_none_lists_the_shipped_ones():
  message = mistake("digts:tiny")
  assert all(name in message for name in config_files.names())
  assert "did you mean 'digits'?" in message


def test_a_path_that_is_none_names_the_shipped_config():
  assert "--config=digits" in mistake("configs/digits.py:tiny")
  assert "--config=" not in mistake("configs/nothing.py")
