"""Config files and overrides: what is loaded, and each mistake's one line."""

import sys
import textwrap

import pytest
from absl import flags
from ml_collections import ConfigDict

from scm_jax.cli import configs
from scm_jax.errors import ConfigError

CONFIG = """
from ml_collections import ConfigDict, config_dict
from scm_jax.configuration import parse_arg

def get_config(arg=""):
  choice = parse_arg(arg, run=("teacher", "sct", "scd"), tiny=False)
  config = ConfigDict()
  config.run, config.note = choice.run, "new"
  config.seed = 0
  config.batch_size = 8 if choice.tiny else 64
  config.data_seed = config.get_ref("seed")
  config.limit = config_dict.placeholder(int)
  config.nothing = None
  config.files = ["a"]
  config.optimizer = ConfigDict({"learning_rate": 0.1, "nesterov": True})
  config.objective = ConfigDict({"tangent_norm": "l2", "scale": 1.0})
  config.evaluate = ConfigDict(
    {"steps": (1, 2), "cuts": (0.5,), "features": ("pixels",), "any": ()}
  )
  return config
"""


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
  """Makes a working directory with configs/digits.py."""
  (tmp_path / "configs").mkdir()
  (tmp_path / "configs" / "digits.py").write_text(CONFIG)
  monkeypatch.chdir(tmp_path)
  return tmp_path


def parse(*argv: str, arg: str = "") -> ConfigDict:
  return configs.parse_config([f"--config=configs/digits.py{arg}", *argv])


def mistake(*argv: str) -> str:
  with pytest.raises(ConfigError) as error:
    configs.parse_config(argv)
  assert "\n" not in str(error.value)
  return str(error.value)


def write(folder, text: str, name: str = "bad") -> str:
  path = folder / "configs" / f"{name}.py"
  path.write_text(textwrap.dedent(text))
  return f"--config=configs/{name}.py"


def test_loads_with_and_without_an_argument():
  assert parse().batch_size == 64
  config = parse(arg=":run=scd,tiny")
  assert (config.run, config.batch_size) == ("scd", 8)


def test_flag_and_value_may_be_two_words():
  argv = ["--config", "configs/digits.py:tiny", "--config.seed", "-3"]
  config = configs.parse_config(argv)
  assert (config.batch_size, config.seed) == (8, -3)


@pytest.mark.parametrize(
  ("flag", "field", "value"),
  [
    ("--config.batch_size=16", "batch_size", 16),
    ("--config.limit=5", "limit", 5),
    ("--config.note=", "note", ""),
    ("--config.note=a=b:c", "note", "a=b:c"),
    ("--config.optimizer.learning_rate=1", "optimizer.learning_rate", 1.0),
    (
      "--config.optimizer.learning_rate=-1e-3",
      "optimizer.learning_rate",
      -1e-3,
    ),
    ("--noconfig.optimizer.nesterov", "optimizer.nesterov", False),
    ("--config.optimizer.nesterov=false", "optimizer.nesterov", False),
    ("--config.optimizer.nesterov", "optimizer.nesterov", True),
    ("--config.evaluate.steps=4", "evaluate.steps", (4,)),
    ("--config.evaluate.steps=1,4", "evaluate.steps", (1, 4)),
    ("--config.evaluate.steps=(1, 4)", "evaluate.steps", (1, 4)),
    ("--config.evaluate.steps=()", "evaluate.steps", ()),
    ("--config.evaluate.cuts=1,2", "evaluate.cuts", (1.0, 2.0)),
    ("--config.evaluate.features=a, b", "evaluate.features", ("a", "b")),
    ("--config.evaluate.features=('a',)", "evaluate.features", ("a",)),
    ("--config.evaluate.features=", "evaluate.features", ()),
    ("--config.evaluate.any=1,'b'", "evaluate.any", (1, "b")),
  ],
)
def test_override_sets_a_typed_value(flag, field, value):
  found = parse(flag)
  for name in field.split("."):
    found = found[name]
  assert found == value
  assert type(found) is type(value)
  if value and isinstance(value, tuple):
    assert type(found[0]) is type(value[0])


def test_references_follow_an_override():
  assert parse("--config.seed=3").data_seed == 3


def test_result_is_locked_and_each_call_has_its_own():
  config = parse()
  with pytest.raises(AttributeError):
    config.new_field = 1
  config.seed = 5
  assert parse().seed == 0


def test_absl_global_flags_stay_untouched():
  before = set(flags.FLAGS)
  parse("--config.seed=3")
  assert set(flags.FLAGS) == before


@pytest.mark.parametrize(
  ("flag", "message"),
  [
    (
      "--config.batchsize=1",
      "no field 'batchsize' in configs/digits.py; did you mean 'batch_size'?",
    ),
    (
      "--config.objective.tangent_nrom=rms",
      "no field 'objective.tangent_nrom' in configs/digits.py; "
      "did you mean 'objective.tangent_norm'?",
    ),
    ("--config.objectve.scale=1", "did you mean 'objective.scale'?"),
    # The right name in the wrong place.
    ("--config.learning_rate=1", "did you mean 'optimizer.learning_rate'?"),
    ("--config.optimizer.batch_size=1", "did you mean 'batch_size'?"),
    ("--config.learnig_rate=1", "did you mean 'optimizer.learning_rate'?"),
    ("--config.zzz=1", "no field 'zzz' in configs/digits.py; it has "),
    (
      "--config.objective={}",
      "objective.scale, objective.tangent_norm",
    ),
    (
      "--config.batch_size=1.5",
      "'batch_size' in configs/digits.py must be an int, as 64",
    ),
    ("--config.optimizer.learning_rate=fast", "must be a float, as 0.1"),
    ("--config.optimizer.nesterov=2", "must be a bool, as True"),
    ("--config.evaluate.steps=a", "elements of type int"),
    ("--config.evaluate.steps=1,2.5", "elements of type int"),
    ("--config.evaluate.steps=(1,", "must be a tuple, as (1, 2)"),
    ("--config.nothing=1", "is a NoneType"),
    ("--config.files=[1]", "is a list"),
    ("--config.batch_size", "--config.batch_size needs a value"),
    ("--noconfig.batch_size", "write --config.batch_size=VALUE"),
    ("--noconfig.optimizer.nesterov=1", "write --config.optimizer.nesterov="),
    ("--config=configs/other.py", "--config is given twice"),
    ("--num=3", "'--num=3' is not a flag of the config"),
  ],
)
def test_mistaken_override(flag, message):
  assert message in mistake("--config=configs/digits.py", flag)


def test_a_field_given_twice():
  text = mistake(
    "--config=configs/digits.py", "--config.seed=1", "--config.seed", "2"
  )
  assert text == "--config.seed is given twice: 1 and 2"


@pytest.mark.parametrize("argv", [[], ["--config="], ["--config.seed=1"]])
def test_no_config(argv):
  assert "give --config=" in mistake(*argv)


def test_missing_file_names_the_nearest():
  assert "did you mean 'configs/digits.py'?" in mistake(
    "--config=configs/digts.py"
  )
  assert "'nowhere/zzz.py'" in mistake("--config=nowhere/zzz.py")
  assert mistake("--config=configs").endswith("'configs': Is a directory")
  assert "the record of a run" in mistake("--config=runs/a/config.json")


def test_file_without_get_config(folder):
  flag = write(folder, "get_confg = None\n")
  assert mistake(flag) == (
    'configs/bad.py has no function get_config(arg: str = "")'
  )


@pytest.mark.parametrize(
  ("text", "message"),
  [
    (
      "import math\n\ndef get_config(arg=''):\n  return math.sqrt(-1)\n",
      "configs/bad.py, line 4: ValueError: ",
    ),
    ("x = 1\ny = {}['k']\n", "configs/bad.py, line 2: KeyError: 'k'"),
    ("x = 1\nx = = 2\n", "configs/bad.py, line 2: SyntaxError: "),
    ("import no_such_package\n", "configs/bad.py, line 1: ModuleNotFoundError"),
    (
      "def get_config(arg=''):\n  raise ValueError('a\\nb')\n",
      "configs/bad.py, line 2: ValueError: a b",
    ),
    (
      "def get_config(arg=''):\n  pass\n",
      "get_config in configs/bad.py returned",
    ),
  ],
)
def test_file_that_fails_names_its_line(folder, text, message):
  assert message in mistake(write(folder, text))


def test_the_line_is_the_files_own_not_a_library_s(folder):
  flag = write(
    folder,
    """
    import json
    def get_config(arg=""):
      return helper()
    def helper():
      return json.loads("{")
    """,
  )
  assert mistake(flag).startswith("configs/bad.py, line 6: JSONDecodeError")


def test_unknown_argument_names_file_and_nearest():
  assert mistake("--config=configs/digits.py:runn=scd") == (
    "configs/digits.py: no argument 'runn' in 'runn=scd'; did you mean 'run'?"
  )


def test_config_can_import_its_neighbour_from_any_folder(folder, monkeypatch):
  for name in [n for n in sys.modules if n.partition(".")[0] == "configs"]:
    monkeypatch.delitem(sys.modules, name)
  write(
    folder,
    """
    from configs import digits
    def get_config(arg=""):
      config = digits.get_config(arg)
      config.seed = 7
      return config
    """,
    name="derived",
  )
  path = folder / "configs" / "derived.py"
  monkeypatch.chdir("/")
  searched = list(sys.path)
  config = configs.parse_config([f"--config={path}:tiny"])
  assert (config.seed, config.batch_size) == (7, 8)
  assert sys.path == searched
  for name in [n for n in sys.modules if n.partition(".")[0] == "configs"]:
    sys.modules.pop(name)


def test_an_edited_file_is_read_anew(folder):
  text = "from ml_collections import ConfigDict\n"
  for value in (1, 2):
    body = (
      f"{text}def get_config(arg=''): return ConfigDict({{'a': {value}}})\n"
    )
    assert configs.parse_config([write(folder, body)]).a == value


def test_split_argv_keeps_order():
  argv = "--workdir=w --config c.py --num 3 --config.b --noconfig.c -x"
  assert configs.split_argv(argv.split()) == (
    ["--config=c.py", "--config.b", "--noconfig.c"],
    ["--workdir=w", "--num", "3", "-x"],
  )
