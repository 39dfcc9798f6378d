"""Every value of an option reaches its code, and any other is refused."""

import contextlib
import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scm_jax import networks, schema
from scm_jax.defaults import GROUPS, Run, get_defaults
from scm_jax.errors import ConfigError
from scm_jax.networks.config import LevelsConfig
from scm_jax.objectives import OBJECTIVES, Point, Student
from scm_jax.training import resolve

FAMILIES = {name: family.config for name, family in networks.FAMILIES.items()}
OBJECTIVE_OPTIONS = {name: spec.options for name, spec in OBJECTIVES.items()}


def chosen(kinds):
  """Each kind's name with each field that lists its values."""
  return [(k, field) for k in kinds for field in schema.choices(kinds[k])]


def flat_fields():
  """The paths of all fields of a config that list their values."""
  groups = {"": Run} | GROUPS
  yield from (".".join(pair).lstrip(".") for pair in chosen(groups))
  for group, kinds in (("network", FAMILIES), ("objective", OBJECTIVE_OPTIONS)):
    yield from (f"{group}.{field}" for _, field in chosen(kinds))


def minimal(**fields):
  config = get_defaults()
  config.update(total_steps=1, teacher="somewhere")
  config.data.size = 8
  config.update_from_flattened_dict(fields)
  return config


@pytest.mark.parametrize("path", sorted(set(flat_fields())))
def test_any_other_value_is_refused(path):
  family = "ddpmpp" if path == "network.form" else "unet"
  owners = [run for run, kind in OBJECTIVE_OPTIONS.items()
            if path.partition(".")[2] in schema.options(kind)]  # fmt: skip
  run = owners[0] if path.startswith("objective.") else "scd"
  fields = {"network.family": family, "run": run}
  resolve.check(minimal(**fields))
  with pytest.raises(ConfigError, match=path):
    resolve.check(minimal(**fields, **{path: "nonsense"}))


def differ(programs):
  """Whether no two values of an option make the same program."""
  texts = [str(program) for program in programs]
  return all(a != b for a, b in itertools.combinations(texts, 2))


@pytest.mark.parametrize(
  ("family", "field"),
  [
    # Whose backward passes training/test_every_family.py looks at.
    pytest.param(*pair, marks=pytest.mark.slow) if pair[1] == "remat" else pair
    for pair in chosen(FAMILIES)
  ],
)
def test_values_of_a_network_make_different_programs(family, field):
  kind = FAMILIES[family]
  allowed = schema.choices(kind)[field]
  levels = {"channel_mult": (1,), "num_blocks": 1, "attn_resolutions": (8,)}
  small = levels if issubclass(kind, LevelsConfig) else {"depth": 1}
  base = kind(
    resolution=8, in_channels=1, channels=8, channels_per_head=8, **small
  )

  def program(value):
    network = networks.build(dataclasses.replace(base, **{field: value}))
    params = network.shapes

    def total(params):
      x, t = jnp.ones((1, 8, 8, 1)), jnp.ones(1)
      return network.F(params, x, t, {}).sum() + network.w(params, t).sum()

    # Rematerialisation changes the backward pass alone.
    traced = jax.grad(total) if field == "remat" else total
    return jax.make_jaxpr(traced)(params)

  assert differ(map(program, allowed))


# What other parts of the step read: the teacher's guidance, the draw of its
# scales, and the pass that takes the tangent.
ELSEWHERE = {
  *("guidance", "guidance_law", "target"),
  *("tangent_dtype", "tangent_precision"),
}


# Those of sCT with other defaults, of which multistep sCD stands for all.
_VARIANTS = {
  "ect",
  "tcm",
  *(n for n, x in OBJECTIVES.items() if x.kind == "map"),
}
RUNS = {
  run: kind
  for run, kind in OBJECTIVE_OPTIONS.items()
  if run not in _VARIANTS - {"ms_scd"}
}


@pytest.mark.parametrize(
  ("run", "field"),
  [pair for pair in chosen(RUNS) if pair[1] not in ELSEWHERE],
)
def test_values_of_an_objective_make_different_gradients(run, field):
  spec = OBJECTIVES[run]
  rng = np.random.default_rng(0)
  # Far apart, so that clipping acts.
  x0, z = 4.0 * jnp.asarray(rng.normal(size=(2, 4, 6)))
  weights = lambda: {
    "matrix": jnp.asarray(rng.normal(size=(6, 6))),
    "weight": jnp.ones(()),
  }
  extra = {name: weights() for name in spec.extra}
  params = weights() | extra
  F = lambda params, x, t, cond: jnp.tanh(x @ params["matrix"] + t[:, None])
  w = lambda params, t, s=0.0: params["weight"] * jnp.sin(t + s)
  student = Student(F, w, extra={name: Student(F, w) for name in spec.extra})
  velocity = lambda x, t, cond: jnp.sin(2 * x)

  def gradient(options):
    drawn = spec.draw(jax.random.key(1), 4, options)
    own = drawn.pop("t")
    t = own if "s" in drawn else jnp.array([0.3, 0.6, 0.9, 1.2])
    point = Point(x0, z, t, drawn=drawn)
    teacher = velocity if spec.asks_teacher(options) else None

    def loss(params):
      step = options.warmup_steps / 3 if hasattr(options, "warmup_steps") else 0
      return spec.loss(student, params, point, teacher, options, step)[0]

    found = jax.grad(loss)(params)
    return [np.asarray(leaf).tolist() for leaf in jax.tree.leaves(found)]

  assert differ(map(gradient, options_with(spec.options, field)))


def options_with(kind, field):
  """The options with each value of a field, where it goes with the others."""
  for value in schema.choices(kind)[field]:
    with contextlib.suppress(ConfigError):
      yield kind(**{field: value})
