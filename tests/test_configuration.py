"""Config arguments, the JSON of a workdir, and differences in words."""

import enum
import math

import numpy as np
import pytest
from ml_collections import ConfigDict, FrozenConfigDict

from scm_jax import configuration
from scm_jax.errors import ConfigError, UserError


class Size(enum.IntEnum):
  S = 1


def parse(arg: str):
  return configuration.parse_arg(
    arg, run=("teacher", "sct", "scd"), size=64, lr=0.1, name="a", tiny=False
  )


def test_parse_arg_defaults():
  assert vars(parse("")) == {
    "run": "teacher",
    "size": 64,
    "lr": 0.1,
    "name": "a",
    "tiny": False,
  }


def test_parse_arg_types_follow_the_defaults():
  choice = parse(" run=scd, size=128,lr=1,name=x=y ,tiny,")
  assert vars(choice) == {
    "run": "scd",
    "size": 128,
    "lr": 1.0,
    "name": "x=y",
    "tiny": True,
  }
  assert type(choice.lr) is float and type(choice.size) is int
  assert parse("tiny=false").tiny is False
  assert parse("tiny=1").tiny is True


def test_parse_arg_choices_keep_their_type():
  choice = configuration.parse_arg("size=512", size=(64, 512))
  assert choice.size == 512 and type(choice.size) is int


@pytest.mark.parametrize(
  ("arg", "message"),
  [
    ("runn=scd", "no argument 'runn' in 'runn=scd'; did you mean 'run'?"),
    ("scd", "no argument 'scd' in 'scd'; choose from run, size"),
    ("run=scdd", "argument run=scdd: did you mean 'scd'?"),
    ("run=zzz", "argument run=zzz: choose from teacher, sct, scd"),
    ("run", "argument 'run' needs a value: run=..."),
    ("size=big", "argument size=big: not an int"),
    ("lr=x", "argument lr=x: not a float"),
    ("tiny=maybe", "argument tiny=maybe: give true or false"),
    ("size=1,size=2", "argument 'size' is given twice"),
  ],
)
def test_parse_arg_mistakes(arg, message):
  with pytest.raises(ConfigError) as error:
    parse(arg)
  assert message in str(error.value)


def example() -> ConfigDict:
  config = ConfigDict(
    {
      "seed": 0,
      "lr": 1.0,
      "eps": 1e-8,
      "clip": math.inf,
      "name": "zwölf",
      "teacher": "",
      "none": None,
      "flag": True,
      "mult": (1, 2, (3, 4.0)),
      "empty": (),
      "group": {"deep": {"x": 0.1 + 0.2}},
    }
  )
  config.twice = config.get_ref("seed") + 1
  return config.lock()


def test_json_round_trip_is_exact():
  config = example()
  text = configuration.to_json(config)
  back = configuration.from_json(text)
  assert back.to_dict() == config.to_dict()
  assert type(back.lr) is float and type(back.seed) is int
  assert back.mult == (1, 2, (3, 4.0)) and type(back.mult[2]) is tuple
  assert back.is_locked
  assert configuration.to_json(back) == text
  assert configuration.to_json(FrozenConfigDict(config)) == text


def test_json_is_sorted_and_lists_become_tuples():
  text = configuration.to_json({"b": [1, 2], "a": {}})
  assert text == '{\n  "a": {},\n  "b": [\n    1,\n    2\n  ]\n}\n'
  assert configuration.from_json(text).b == (1, 2)


@pytest.mark.parametrize(
  ("value", "kind"),
  [
    (np.float32(1), "a float32"),
    (np.float64(1), "a float64"),
    (Size.S, "a Size"),
    (len, "a builtin_function_or_method"),
    ({1}, "a set"),
  ],
)
def test_json_refuses_what_would_not_come_back(value, kind):
  with pytest.raises(ConfigError, match=f"'group.x\\[1\\]' is {kind},"):
    configuration.to_json({"group": {"x": (0, value)}})


def test_json_refuses_keys_that_are_not_strings():
  with pytest.raises(ConfigError, match="key 3"):
    configuration.to_json({"a": {3: 1}})


@pytest.mark.parametrize("text", ["", '{"a": 1', "[1]", "nonsense"])
def test_damaged_json_is_a_user_error(text):
  with pytest.raises(UserError, match="config is not") as error:
    configuration.from_json(text)
  assert error.value.exit_code == 1


def test_diff_names_the_fields():
  a, b = example().unlock(), example().unlock()
  assert configuration.diff(a, b) == []
  b.group.deep.x = 0.5
  b.seed = 1
  b.extra = "new"
  del b.teacher
  assert configuration.diff(a, b) == [
    "extra: absent -> 'new'",
    f"group.deep.x: {0.1 + 0.2!r} -> 0.5",
    "seed: 0 -> 1",
    "teacher: '' -> absent",
    "twice: 1 -> 2",
  ]


def test_diff_ignores_what_means_the_same():
  a = {"t": [1, 2], "x": 1, "nan": math.nan, "flag": True}
  b = {"t": (1, 2), "x": 1.0, "nan": math.nan, "flag": 1}
  assert configuration.diff(a, b) == ["flag: True -> 1"]
