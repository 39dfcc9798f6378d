"""The options that functions are compiled with."""

import jax
import jax.numpy as jnp
import pytest

from scm_jax import compilation
from scm_jax.compilation import stored


@pytest.fixture
def fresh(monkeypatch):
  """Forgets what was asked before, during the test and after it."""
  compilation.options.cache_clear()
  yield monkeypatch
  compilation.options.cache_clear()


@compilation.jitted("power")
def product(a, b, *, power):
  return (a @ b).sum(1) ** power


def test_it_computes_what_the_function_does():
  a = jax.random.normal(jax.random.key(0), (64, 64))
  found = product(a, a, power=2)
  assert jnp.allclose(found, product.function(a, a, power=2), rtol=1e-4)


def test_programs_of_cpus_do_without_ynnpack():
  a = jax.ShapeDtypeStruct((512, 512), jnp.float32)
  plain = jax.jit(product.function, static_argnames="power")
  text = lambda jitted: jitted.lower(a, a, power=1).compile().as_text()
  if "ynn" not in text(plain):
    pytest.skip("this jaxlib does not use the library by itself")
  assert "ynn" not in text(product.on("cpu"))


def test_accelerators_get_no_option_of_cpus():
  assert compilation.options("gpu") is None
  assert compilation.options("tpu") is None


def test_programs_that_run_once_draw_what_others_draw():
  draw = lambda: jax.random.normal(jax.random.key(0), (3, 3, 16, 16))
  quickly = compilation.options("cpu", once=True)
  found = jax.jit(draw, compiler_options=quickly)()
  assert jnp.allclose(found, draw(), rtol=1e-6)


def test_an_option_that_xla_does_not_know_is_left_out(fresh):
  fresh.setattr(compilation, "_WITHOUT_YNNPACK", {"xla_cpu_no_such": ""})
  assert compilation.options("cpu") is None


def test_a_stored_array_has_the_derivatives_of_itself():
  plain = lambda x: jnp.sum(jnp.sin(x) ** 3)
  through = lambda x: jnp.sum(stored(stored(jnp.sin(x)) ** 3))
  x = jnp.linspace(-2.0, 2.0, 6).reshape(2, 3)
  for derive in (
    jax.grad,
    jax.hessian,
    lambda f: jax.vmap(jax.grad(f)),
    lambda f: lambda x: jax.jvp(jax.grad(f), (x,), (x,)),
    lambda f: jax.grad(jax.checkpoint(f)),
  ):
    found, wanted = derive(through)(x), derive(plain)(x)
    for a, b in zip(*map(jax.tree.leaves, (found, wanted)), strict=True):
      assert jnp.allclose(a, b, rtol=1e-5)


def test_arrays_are_stored_in_train_steps_alone():
  """A barrier that is left in the compiled program ends what is fused."""
  x = jax.ShapeDtypeStruct((8,), jnp.float32)

  def barriers(options):
    gradient = jax.grad(lambda x: jnp.sum(stored(2 * x) ** 2))
    jitted = jax.jit(gradient, compiler_options=options)
    return jitted.lower(x).compile().as_text().count("opt-barrier(")

  if not barriers(compilation.options("cpu", storing=True)):
    pytest.skip("this jaxlib cannot keep barriers")
  assert not barriers(compilation.options("cpu"))


def test_nothing_is_stored_on_accelerators():
  traced = jax.jit(jax.grad(lambda x: stored(x) ** 2)).trace(1.0)
  text = lambda platform: traced.lower(lowering_platforms=(platform,)).as_text()
  assert "barrier" in text("cpu")
  assert "barrier" not in text("tpu") and "barrier" not in text("cuda")


def test_programs_without_derivatives_are_as_they_were():
  plain = jax.jit(lambda x: jnp.exp(x) + 1).lower(1.0).as_text()
  assert jax.jit(lambda x: stored(jnp.exp(x)) + 1).lower(1.0).as_text() == plain
