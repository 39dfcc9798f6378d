"""TCM: the law of its times, and its loss as published."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from scm_jax import trigflow
from scm_jax.cli import configs
from scm_jax.defaults import get_defaults
from scm_jax.errors import ConfigError
from scm_jax.objectives import diagnostics, spec, truncated
from scm_jax.training import resolve

BORDER = np.arctan(2.0)  # the noise level 1 where sigma_d is 1/2


@pytest.mark.parametrize("degrees, mean", [(0.01, 0.0), (2.0, 0.5)])
def test_noise_levels_have_the_truncated_law(degrees, mean):
  options = truncated.Options(late_degrees=degrees, late_mean=mean)
  law = stats.t(degrees, mean, options.late_std)
  low, high = law.cdf([0.0, np.log(trigflow.SIGMA_MAX)])
  parts = np.array([0.01, 0.1, 0.3, 0.5, 0.8, 0.99])
  found = truncated.late(jnp.asarray(parts), options)
  np.testing.assert_allclose(
    (law.cdf(found) - low) / (high - low), parts, atol=1e-5
  )
  ends = truncated.late(jnp.array([0.0, 1.0]), options)
  np.testing.assert_allclose(np.exp(ends), [1.0, trigflow.SIGMA_MAX], rtol=1e-6)


def test_a_part_of_the_batch_is_at_the_border():
  options = truncated.Options(border_share=0.25)
  t = np.asarray(truncated.draw(jax.random.key(0), 4096, options)["t"])
  assert np.mean(t == options.border_time) == pytest.approx(0.25, abs=0.03)
  assert np.all(t >= BORDER - 1e-7) and np.all(t <= trigflow.max_time(0.5))
  assert np.std(t) > 0.05


def test_two_steps_meet_where_it_is_trained():
  border = truncated.Options().border_time
  assert border < get_defaults("tcm").sample.t_mid < border + 0.01


@pytest.mark.parametrize("on", ["cifar10", "imagenet64"])
def test_it_is_the_published_loss(mlp, on):
  """`mean(late) + 0.1 mean(border)` of `||D(x_sigma) - D(x_r)|| / (sigma - r)`.

  Up to its factor; below the border `D` is the first stage's. On ImageNet it is
  of `(sqrt(||...||^2 + c^2) - c) (sigma^2 + sigma_d^2) / (sigma sigma_d)^2`.
  """
  t = jnp.array([BORDER, 1.2, 1.4, 1.5])
  problem = mlp.point._replace(t=t)
  config = configs.parse_config([f"--config={on}:run=tcm"])
  options = resolve.resolve(config).objective
  options = dataclasses.replace(options, easy_base=4.0)
  if on == "cifar10":  # it has no constant, and ours is a millionth
    options = dataclasses.replace(options, tangent_c=0.0)
  first = jax.tree.map(lambda leaf: 0.8 * leaf, mlp.params)
  teacher = lambda x, t, cond: (
    0.5 * mlp.F(first, x / 0.5, t, cond, rngs=mlp.rngs, train=True)
  )
  sigma = 0.5 * jnp.tan(t)
  r = sigma * (1 - (1 + 8 / (1 + jnp.exp(sigma))) / 4)
  assert (r < 1).tolist() == [True, True, False, False]

  def D(params, sigma):
    t = jnp.arctan(sigma / 0.5)
    x_t = trigflow.interpolate(mlp.x0, mlp.z, t)
    F = mlp.F(params, x_t / 0.5, t, mlp.cond, rngs=mlp.rngs, train=True)
    return trigflow.denoise(F, x_t, t, 0.5)

  def published(params):
    there = diagnostics.select(r < 1, D(first, r), D(mlp.params, r))
    far = diagnostics.norms(D(params, sigma) - there)
    if on == "cifar10":
      far /= sigma - r
    else:
      weight = (sigma**2 + 0.5**2) / (sigma * 0.5) ** 2
      far = (jnp.sqrt(far**2 + 0.06**2) - 0.06) * weight
    return jnp.mean(far[1:]) + 0.1 * far[0]

  def ours(params):
    loss = truncated.loss(mlp.student, params, problem, teacher, options, 7)[0]
    # Its factor, which is q / 2 or 1, and the share of the late.
    return loss * (2 if on == "cifar10" else 1) / 0.75

  found, expected = (
    jax.jit(jax.grad(f))(mlp.params) for f in (ours, published)
  )
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6),
    found,
    expected,
  )


def test_the_first_stage_is_asked_once(mlp):
  """And the student twice, at both ends of a step."""
  asked = {"student": 0, "first": 0}

  def counted(name):
    def F(params, u, t, cond, **keywords):
      asked[name] += 1
      return mlp.F(params, u, t, cond, **keywords)

    return F

  teacher = lambda x, t, cond: counted("first")(mlp.params, x / 0.5, t, cond)
  student = spec.Student(counted("student"), mlp.w)
  point = mlp.point._replace(t=jnp.full(4, 1.3))
  jax.make_jaxpr(
    lambda params: truncated.loss(
      student, params, point, teacher, truncated.Options(), 0
    )[0]
  )(mlp.params)
  assert asked == {"student": 2, "first": 1}


@pytest.mark.parametrize(
  "fields",
  [
    {"derivative": "jvp"},
    {"ends": "below"},
    {"equal_share": 0.5},
    {"tangent_norm": "clip"},
  ],
)
def test_options_that_have_no_place_here(fields):
  with pytest.raises(ConfigError, match=next(iter(fields))):
    truncated.Options(**fields)
