"""The options that functions are compiled with."""

import jax
import jax.numpy as jnp
import pytest

from scm_jax import compilation


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


def test_an_option_that_xla_does_not_know_is_left_out(fresh):
  fresh.setattr(compilation, "_WITHOUT_YNNPACK", {"xla_cpu_no_such": ""})
  assert compilation.options("cpu") is None
