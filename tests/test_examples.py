"""The examples do what they say."""

import functools
import json
import pathlib
import shutil
import sys

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
import pytest

from scm_jax import samplers, velocity

EXAMPLES = pathlib.Path(__file__).parents[1] / "examples"


@pytest.fixture
def load(load_module):
  """`load(name)`: an example as a module."""
  return lambda name: load_module(f"../examples/{name}.py")


def test_own_network(load, tmp_path):
  """It draws its picture."""
  matplotlib.use("Agg")
  load("own_network").main(tmp_path / "picture.png", steps=2)
  assert (tmp_path / "picture.png").stat().st_size > 10_000


@pytest.mark.slow
def test_samples_of_the_own_network_lie_near_the_spiral(load):
  """After a short training."""
  example = load("own_network")
  draw = lambda s: jax.random.normal(jax.random.key(1), s) / s[0] ** 0.5
  params = example.train("teacher", list(map(draw, example.SHAPES)), 800)
  v = velocity.from_network(functools.partial(example.F, params), 0.5)
  student = example.train("scd", params, 400, v, warmup_steps=40)
  radius = jnp.linspace(0, 1, 400)[:, None]
  spiral = radius * jnp.hstack([jnp.cos(9 * radius), jnp.sin(9 * radius)])
  noise = jax.random.normal(jax.random.key(2), (1, 500, 2))
  times = samplers.consistency_times(1, 0.5)

  def measure(params):
    """Returns the spread of one-step samples, and their median distance."""
    F = functools.partial(example.F, params)
    points, _ = samplers.consistency(F, noise, {}, times, 0.5)
    gaps = jnp.linalg.norm(points[:, None] - spiral, axis=-1).min(1)
    return float(points.std()), float(np.median(gaps))

  # One step of the teacher ends at the mean of the data; a student's does not.
  data = float(example.draw_data(jax.random.key(3), 2000).std())
  assert measure(params)[0] < 0.5 * data
  spread, distance = measure(student)
  assert 0.8 * data < spread < 1.2 * data and distance < 0.1


@pytest.mark.slow
@pytest.mark.parametrize("compiled", [False, True])
def test_compare_pytorch(load, monkeypatch, capsys, compiled):
  """Both frameworks make their steps."""
  pytest.importorskip("torch")
  runs, others = ["teacher", "sct", "scd"], ["pytorch"]
  argv = ["compare_pytorch", "--arg=tiny", "--repeats=1"]
  argv += [f"--config={EXAMPLES.parent / 'configs/digits.py'}"]
  if compiled:
    if not shutil.which("g++"):
      pytest.skip("torch.compile needs a C++ compiler on CPUs")
    runs, others = ["teacher"], ["pytorch", "pytorch_compiled"]
    argv += ["--compile", "--runs=teacher"]
  monkeypatch.setattr(sys, "argv", argv)
  load("compare_pytorch").main()
  rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
  assert [row["run"] for row in rows] == runs
  for row in rows:
    assert list(row["scm_jax_over"]) == others
    assert all(ratio > 0 for ratio in row["scm_jax_over"].values())


def test_the_paths_of_the_circle_are_exact(load, tmp_path):
  """A path keeps the part of the probability that lies below it."""
  ndtr = pytest.importorskip("scipy.special").ndtr
  circle = load("circle")
  start = circle.SIGMA_D * np.linspace(-2, 2, 9)
  end = circle.follow(start, np.linspace(np.pi / 2, 0, 2000))[-1]
  below = ndtr((end[:, None] - circle.MEANS) / circle.DEVIATION).mean(1)
  np.testing.assert_allclose(below, ndtr(start / circle.SIGMA_D), atol=1e-5)
  circle.main(tmp_path / "circle.svg")
  assert "<path" in (tmp_path / "circle.svg").read_text()
