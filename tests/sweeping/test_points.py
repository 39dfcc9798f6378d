"""Points: the helpers are pure, and what cannot be run is said."""

import pytest

from scm_jax.errors import ConfigError
from scm_jax.sweeping import points as p
from scm_jax.sweeping import scoring


def test_a_grid_has_every_combination():
  made = p.grid({"a": (1, 2), "b.c": ("x", "y")})
  assert made == [
    {"a": 1, "b.c": "x"},
    {"a": 1, "b.c": "y"},
    {"a": 2, "b.c": "x"},
    {"a": 2, "b.c": "y"},
  ]
  assert p.grid({}) == [{}]


def test_zipped_fields_go_together():
  made = p.zipped({"a": (1, 2), "b": (3, 4)})
  assert made == [{"a": 1, "b": 3}, {"a": 2, "b": 4}]
  with pytest.raises(ConfigError, match="different lengths"):
    p.zipped({"a": (1, 2), "b": (3,)})


def test_random_draws_are_a_function_of_the_seed():
  fields = {
    "x": p.uniform(-1.0, 1.0),
    "y": p.log_uniform(1e-4, 1e-2),
    "z": ("adam", "radam"),
  }
  made = p.randomly(fields, 20, seed=1)
  assert made == p.randomly(fields, 20, seed=1)
  assert made[:5] == p.randomly(fields, 5, seed=1)
  assert made != p.randomly(fields, 20, seed=2)
  assert all(-1 <= d["x"] <= 1 and 1e-4 <= d["y"] <= 1e-2 for d in made)
  # In the logarithm: about half of the draws are below the geometric mean.
  assert 4 < sum(d["y"] < 1e-3 for d in made) < 16
  assert {d["z"] for d in made} == {"adam", "radam"}


@pytest.mark.parametrize(
  ("fields", "expected"),
  [
    ({"objective.P_mean": -1.0, "tangent_c": 0.1}, "P_mean=-1.0_tangent_c=0.1"),
    ({"network.channel_mult": (1, 2)}, "channel_mult=1-2"),
    ({"teacher": "a/b c"}, "teacher=a-b-c"),
    ({"teacher": ""}, "teacher=none"),
  ],
)
def test_names_are_folders(fields, expected):
  assert p.name(fields) == expected
  assert p.checked([p.Point(expected)])


def test_every_seed_has_its_own_teacher():
  made = p.seeds([p.Point("t"), p.Point("s", {"a": 1}, teacher="t")], 2)
  assert [(x.name, x.teacher, x.group) for x in made] == [
    ("t_seed=0", "", "t"),
    ("s_seed=0", "t_seed=0", "s"),
    ("t_seed=1", "", "t"),
    ("s_seed=1", "t_seed=1", "s"),
  ]
  assert made[3].overrides == {"a": 1, "seed": 1}
  assert [x.overrides["seed"] for x in p.seeds([p.Point("t")], (3, 5))] == [
    3,
    5,
  ]


def test_teachers_come_first():
  late = [p.Point("s", teacher="m"), p.Point("m", teacher="t"), p.Point("t")]
  assert [x.name for x in p.checked(late)] == ["t", "m", "s"]


def test_a_point_comes_after_all_that_it_needs():
  chain = [
    p.Point("student", teacher="t", start="middle", guide="weak"),
    p.Point("middle", teacher="t"),
    p.Point("t"),
    p.Point("weak"),
  ]
  names = [x.name for x in p.checked(chain)]
  assert names == ["t", "weak", "middle", "student"]
  assert [x.name for x in p.chosen(p.checked(chain), "st*")] == names
  student = p.seeds(chain, [7])[0]
  assert student.needs == {
    "teacher": "t_seed=7",
    "start": "middle_seed=7",
    "guide": "weak_seed=7",
  }


def test_chosen_points_bring_their_teachers():
  made = p.checked([p.Point("t"), p.Point("s", teacher="t"), p.Point("u")])
  assert [x.name for x in p.chosen(made, "s*")] == ["t", "s"]
  with pytest.raises(ConfigError, match="--only=x"):
    p.chosen(made, "x")


@pytest.mark.parametrize(
  ("made", "message"),
  [
    ([], "no points"),
    ([{"a": 1}], "is not a Point"),
    ([p.Point("a/b")], "'a/b'"),
    ([p.Point("evaluation")], "'evaluation'"),
    ([p.Point("a"), p.Point("a")], "two points are named 'a'"),
    ([p.Point("a", teacher="b")], "teacher of 'a' is 'b'"),
    ([p.Point("a", teacher="b"), p.Point("b", teacher="a")], "'a'"),
    ([p.Point("a", start="b")], "start of 'a' is 'b'"),
    ([p.Point("a", {"sample.t_mid": 1.0})], r"sampling=\({'t_mid': \.\.\.},\)"),
  ],
)
def test_what_cannot_be_run_is_said(made, message):
  with pytest.raises(ConfigError, match=message):
    p.checked(made)


def test_flags_of_an_evaluation():
  """Switches have no value, and further flags replace those of a point."""
  sampling = {"steps": (1, 2), "allow_few": True, "full": False, "t_mid": 0.8}
  more = ("--t-mid=1.1", "--allow-few", "--num=5")
  own = scoring.flags(sampling)
  assert own == ("--steps=1,2", "--allow-few", "--t-mid=0.8")
  both = scoring.flags(sampling, more)
  assert both == ("--steps=1,2", "--allow-few", "--t-mid=1.1", "--num=5")
