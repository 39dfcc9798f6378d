"""The traffic that a step needs at least, against closed forms."""

import jax
import pytest

from scm_jax.planning import arithmetic
from scm_jax.training import resolve, sharding


@pytest.fixture
def least(config):
  """Returns `least(**fields)`: bytes by kind on 2 times 4 devices."""

  def call(**fields):
    config.update(fields)
    mesh = sharding.abstract_mesh(2, 4)
    shapes = arithmetic.trace(resolve.resolve(config))
    given = arithmetic.arguments(resolve.resolve(config), mesh, shapes)
    traffic = arithmetic.minimum(resolve.resolve(config), given, domain=8)
    found = {t.kind: t.bytes for t in traffic if t.size == 4}
    return found["all-gather"], found["reduce-scatter"]

  return call


@pytest.fixture
def split(config):
  """Returns `split()`: bytes of the split parameters, student and teacher.

  With `wide`, only of those of the time path, which is float32 throughout.
  """

  def count(tree, wide):
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    timed = lambda path: "'emb" in jax.tree_util.keystr(path)
    return sum(
      4 * leaf.size
      for path, leaf in leaves
      if any(leaf.sharding.spec) and (timed(path) or not wide)
    )

  def both(wide=False):
    mesh = sharding.abstract_mesh(1, 4)
    given = arithmetic.arguments(
      resolve.resolve(config), mesh, arithmetic.trace(resolve.resolve(config))
    )
    return count(given.state.params, wide), count(given.teacher, wide)

  return both


@pytest.mark.parametrize("microbatches", [1, 2])
def test_layers_gather_in_every_pass(least, split, config, microbatches):
  """Forward, backward, and two evaluations of a guided teacher."""
  # Half as many bytes as in float32, but for the time path.
  student, teacher = (
    (both + wide) / 2
    for both, wide in zip(split(), split(wide=True), strict=True)
  )
  config.network.dtype = "bfloat16"
  gathered, scattered = least(microbatches=microbatches)
  passes = microbatches * 3 / 4
  assert gathered == pytest.approx(passes * (2 * student + 2 * teacher))
  assert scattered == pytest.approx(passes * student)


def test_layers_of_ddpmpp_gather_what_is_stored(least, split, config):
  """They compute in bfloat16 and gather float32, in every pass."""
  config.network.update(family="ddpmpp", dtype="bfloat16")
  student, teacher = split()
  gathered, scattered = least()
  assert gathered == pytest.approx(3 / 4 * (2 * student + 2 * teacher))
  assert scattered == pytest.approx(3 / 4 * student)
  config.sharding.reduce_dtype = "float32"
  assert least()[1] == pytest.approx(3 / 4 * student)


def test_a_tangent_of_its_own_takes_a_pass_of_its_own(least, split, config):
  """The teacher, too, computes in its type."""
  (student, teacher), (wide, _) = split(), split(wide=True)
  config.network.dtype = "bfloat16"
  config.objective.tangent_dtype = "float32"
  gathered, scattered = least()
  narrow = (student + wide) / 2
  wanted = 3 / 4 * (2 * narrow + student + 2 * teacher)
  assert gathered == pytest.approx(wanted)
  assert scattered == pytest.approx(3 / 4 * narrow)


def test_a_teachers_path_and_its_guide_are_gathered_as_often_as_asked(
  least, split, config
):
  """A guide like the teacher takes the place of its second evaluation."""
  student, teacher = split()
  config.objective.state_steps = 3
  wanted = 3 / 4 * (2 * student + 4 * 2 * teacher)
  assert least()[0] == pytest.approx(wanted)
  config.guide = "weak"
  assert split() == (student, 2 * teacher)
  assert least()[0] == pytest.approx(wanted)
