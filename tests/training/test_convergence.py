"""A short training and a short distillation end near the data."""

import pathlib

import pytest
from sklearn import datasets

from scm_jax.cli import configs
from scm_jax.metrics import frechet
from scm_jax.objectives import tangent
from scm_jax.training import workdir

CONFIG = pathlib.Path(__file__).parents[2] / "configs" / "digits.py"
SMALL = (
  *("network.channels=16", "network.channel_mult=(1,)"),
  *("batch_size=32", "sample.num=10"),
)
NUM = 1000  # images that are scored
# Fréchet distances of pixels, half as far again as measured.
TEACHER, ONE_STEP, TWO_STEPS = 2.1, 2.5, 1.9

# Running these takes longer than compiling them.
pytestmark = [pytest.mark.slow, pytest.mark.optimized]


@pytest.fixture(scope="module")
def distance():
  """`distance(run, steps)`: of a run's samples from the digits."""

  def moments(images):
    return frechet.feature_stats(images.reshape(len(images), -1) / 127.5)

  digits = moments(datasets.load_digits().images * (255 / 16))

  def measure(run, steps):
    images = workdir.load(run)[0].sample(num=NUM, steps=steps)
    return frechet.frechet_distance(moments(images), digits)

  return measure


@pytest.fixture(scope="module")
def run(train, tmp_path_factory):
  """`run(kind, *fields)`: the workdir of a run with these fields."""

  def make(kind, *fields):
    flags = [f"--config.{field}" for field in (*SMALL, *fields)]
    config = configs.parse_config([f"--config={CONFIG}:run={kind}", *flags])
    folder = tmp_path_factory.mktemp(kind) / kind
    assert train(config, folder)
    return folder

  return make


@pytest.fixture(scope="module")
def teacher(run):
  return run("teacher", "total_steps=800", "optimizer.rampup_images=3200")


@pytest.fixture(scope="module")
def distil(run, teacher):
  """`distil()`: the workdir of the teacher's student."""
  fields = (f"teacher={teacher}", "total_steps=300")
  fields += ("objective.warmup_steps=50", "optimizer.rampup_images=1600")
  # The teacher is trained too briefly for a snapshot to be much weaker.
  fields += ("guide=", "objective.guidance_scale=1.15")
  return lambda: run("scd", *fields)


def test_samples_of_teacher_and_student_come_near_the_digits(
  teacher, distil, distance
):
  """In one step the teacher is still far away."""
  assert distance(teacher, 8) < TEACHER
  assert distance(teacher, 1) > 1.5 * ONE_STEP
  student = distil()
  assert distance(student, 1) < ONE_STEP
  assert distance(student, 2) < TWO_STEPS


RIGHT = tangent.consistency_tangent
BROKEN = {
  "no-tangent": lambda *args: 0 * RIGHT(*args),
  "no-derivative": lambda d, F, dF, *rest: RIGHT(d, F, 0 * dF, *rest),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_objective_is_seen(name, distil, distance, monkeypatch):
  monkeypatch.setattr(tangent, "consistency_tangent", BROKEN[name])
  student = distil()
  assert distance(student, 1) > ONE_STEP
  assert distance(student, 2) > TWO_STEPS
