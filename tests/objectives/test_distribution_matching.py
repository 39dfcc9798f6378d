"""sCD with distribution matching: where it rests, where it goes, who learns."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scm_jax import trigflow
from scm_jax.objectives import (
  Student,
  consistency,
  diffusion,
  distribution_matching,
)
from scm_jax.objectives.distribution_matching import Options

C, SIGMA_D = 0.3, 0.5  # deviations of normal data and of the noise


def spread(t, c):
  return jnp.sqrt((jnp.cos(t) * c) ** 2 + (jnp.sin(t) * SIGMA_D) ** 2)


def student_F(params, u, t, cond, **kwargs):
  """Draws normal samples of the deviation `params["c"]`."""
  del cond, kwargs
  wide = lambda x: trigflow.expand(x, u)
  f = wide(params["c"] / spread(t, params["c"])) * u
  return (wide(jnp.cos(t)) * u - f) / wide(jnp.sin(t))


def diffusion_F(params, u, t, cond, **kwargs):
  """The velocity of normal data of the deviation `params["c"]`."""
  del cond, kwargs
  ratio = jnp.cos(t) * jnp.sin(t) * (SIGMA_D**2 - params["c"] ** 2)
  return u * trigflow.expand(ratio / spread(t, params["c"]) ** 2, u)


def teacher(x_t, t, cond):
  return SIGMA_D * diffusion_F({"c": C}, x_t / SIGMA_D, t, cond)


def drawn(problem, options):
  values = distribution_matching.draw(jax.random.key(0), 4, options)
  del values["t"]
  return problem.point._replace(drawn=values)


@pytest.mark.parametrize("rollout", [1, 3])
def test_it_rests_where_student_and_teacher_draw_alike(mlp, rollout):
  """And elsewhere it moves the student's deviation towards the teacher's."""
  options = Options(rollout=rollout, adaptive_weighting=False)
  student = Student(student_F, extra={"critic": Student(diffusion_F)})
  point = drawn(mlp, options)

  def slope(c):
    """Of the matching loss, with a critic that knows the student."""
    params = {"c": jnp.asarray(c), "critic": {"c": jnp.asarray(c)}}
    run = lambda weight: jax.grad(
      lambda p: distribution_matching.loss(
        student,
        p,
        point,
        teacher,
        dataclasses.replace(options, matching_weight=weight),
        1e9,
      )[0]
    )(params)["c"]
    return run(1.0) - run(0.0)

  assert abs(slope(C)) < 1e-12
  assert slope(C + 0.1) > 1e-3 and slope(C - 0.1) < -1e-3


def test_each_network_learns_its_own_loss_alone(mlp):
  """The critic diffusion on the student's samples, the student the rest."""
  options = Options()
  student = mlp.student._replace(extra={"critic": mlp.student})
  params = {**mlp.params, "critic": jax.tree.map(jnp.cos, mlp.params)}
  point = drawn(mlp, options)
  run = lambda loss: jax.grad(loss)(params)
  whole = run(
    lambda p: distribution_matching.loss(
      student, p, point, mlp.velocity, options, 1.0
    )[0]
  )
  scd = run(
    lambda p: consistency.loss(student, p, point, mlp.velocity, options, 1.0)[0]
  )
  t = jnp.full((4,), trigflow.max_time(SIGMA_D))
  F = mlp.F(params, mlp.z / SIGMA_D, t, mlp.cond, rngs=mlp.rngs, train=True)
  samples = trigflow.denoise(F, mlp.z, t, SIGMA_D)
  keys = jax.vmap(jax.random.fold_in, (0, None))(point.drawn["noise_key"], 1)
  noise = jax.vmap(lambda k: jax.random.normal(k, (2, 2, 3)))(keys)
  own = jax.grad(
    lambda p: diffusion.loss(
      mlp.student,
      p,
      point._replace(x0=samples, z=SIGMA_D * noise, t=point.drawn["critic_t"]),
      None,
      options,
      1.0,
    )[0]
  )(params["critic"])
  near = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)
  jax.tree.map(near, whole["critic"], own)
  assert not any(np.any(leaf) for leaf in jax.tree.leaves(scd["critic"]))
  # The matching loss reaches the student, but not its weighting head.
  near(whole["w"], scd["w"])
  assert np.abs(whole["out"] - scd["out"]).max() > 1e-4


def test_samples_that_cannot_be_matched_are_left_out(mlp):
  """They are counted, and the critic does not learn from them."""
  options = Options()
  t_max = trigflow.max_time(SIGMA_D)

  def overflowing(params, u, t, cond, **keywords):
    broken = (t >= t_max - 1e-6) & (jnp.arange(4) < 2)
    return mlp.F(params, u, t, cond, **keywords) + jnp.where(
      broken, jnp.inf, 0.0
    ).reshape(-1, 1, 1, 1)

  student = mlp.student._replace(F=overflowing, extra={"critic": mlp.student})
  params = {**mlp.params, "critic": jax.tree.map(jnp.cos, mlp.params)}
  _, metrics = distribution_matching.loss(
    student, params, drawn(mlp, options), mlp.velocity, options, 1.0
  )
  assert metrics["valid"].tolist() == [False, False, True, True]
  assert metrics["nonfinite_samples"] == 2
  assert jnp.isfinite(metrics["critic_mse"])
