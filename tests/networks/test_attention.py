"""Every implementation of attention gives the same values and derivatives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scm_jax import networks
from scm_jax.networks import attention

NAMES = sorted(attention.IMPLEMENTATIONS)


def draw(length=24, dtype=jnp.float64, scale=1.0):
  """Queries, keys and values, and a direction for each."""
  rng = np.random.default_rng(0)
  normal = lambda: jnp.asarray(
    scale * rng.normal(size=(2, length, 3, 4)), dtype
  )
  return tuple(normal() for _ in range(3)), tuple(normal() for _ in range(3))


def written_out(q, k, v):
  q, k, v = (np.asarray(x, np.float64) for x in (q, k, v))
  logits = np.einsum("bqhd,bkhd->bhqk", q, k) / q.shape[-1] ** 0.5
  weights = np.exp(logits - logits.max(-1, keepdims=True))
  weights /= weights.sum(-1, keepdims=True)
  return np.einsum("bhqk,bkhd->bqhd", weights, v)


@pytest.fixture(autouse=True)
def several_chunks(monkeypatch):
  monkeypatch.setattr(attention, "CHUNK", 8)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("length", [24, 7, 11])
def test_values(name, length):
  with jax.enable_x64(True):
    qkv, _ = draw(length)
    given = attention.attend(*qkv, name)
    np.testing.assert_allclose(given, written_out(*qkv), rtol=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_large_logits_do_not_overflow(name):
  qkv, direction = draw(dtype=jnp.float32, scale=30.0)
  F = lambda *qkv: attention.attend(*qkv, name)
  y, dy = jax.jvp(F, qkv, direction)
  assert np.isfinite(y).all() and np.isfinite(dy).all()
  np.testing.assert_allclose(y, written_out(*qkv), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", NAMES)
def test_derivatives(name):
  """The tangent, and the gradient of a value that came with a tangent."""
  with jax.enable_x64(True):
    qkv, direction = draw()
    attend = lambda *qkv: attention.attend(*qkv, name)

    @jax.jit
    def step(h):
      pairs = zip(qkv, direction, strict=True)
      return attend(*(x + h * dx for x, dx in pairs))

    h = 1e-5
    central = (step(h) - step(-h)) / (2 * h)
    _, tangent = jax.jit(lambda: jax.jvp(attend, qkv, direction))()
    np.testing.assert_allclose(tangent, central, atol=1e-8)

    def loss(attend, qkv):
      y, dy = jax.jvp(attend, qkv, direction)
      return jnp.sum((y - jax.lax.stop_gradient(jnp.sin(dy))) ** 2)

    exact = lambda *qkv: attention.attend(*qkv, "einsum")
    gradient = lambda f: jax.jit(jax.grad(lambda qkv: loss(f, qkv)))(qkv)
    given, wanted = gradient(attend), gradient(exact)
    for a, b in zip(given, wanted, strict=True):
      np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("name", NAMES)
def test_softmax_is_float32(name):
  """bfloat16 in and out; all that is exponentiated or summed is float32."""
  qkv, _ = draw(dtype=jnp.bfloat16)
  y = attention.attend(*qkv, name)
  assert y.dtype == jnp.bfloat16
  np.testing.assert_allclose(
    y.astype(jnp.float32), written_out(*qkv), rtol=0.02, atol=0.01
  )
  wide = {"exp", "reduce_sum", "reduce_max", "div"}
  jaxpr = jax.make_jaxpr(lambda *qkv: attention.attend(*qkv, name))(*qkv)
  seen = [
    variable.aval.dtype
    for equation in equations(jaxpr.jaxpr)
    if equation.primitive.name in wide
    for variable in equation.outvars
  ]
  assert len(seen) >= 3 and set(seen) == {jnp.dtype("float32")}


def equations(jaxpr):
  for equation in jaxpr.eqns:
    yield equation
    for inner in jax.tree.leaves(
      list(equation.params.values()),
      is_leaf=lambda p: hasattr(p, "eqns") or hasattr(p, "jaxpr"),
    ):
      inner = getattr(inner, "jaxpr", inner)
      if hasattr(inner, "eqns"):
        yield from equations(inner)


def test_chunks_make_no_matrix_of_all_pairs():
  """Neither forward, nor in the tangent, nor backward."""
  qkv, direction = draw(dtype=jnp.float32)

  def largest(name):
    def loss(qkv):
      attend = lambda *qkv: attention.attend(*qkv, name)
      y, dy = jax.jvp(attend, qkv, direction)
      return jnp.sum((y + jax.lax.stop_gradient(dy)) ** 2)

    jaxpr = jax.make_jaxpr(jax.grad(loss))(qkv).jaxpr
    return max(v.aval.size for e in equations(jaxpr) for v in e.outvars)

  pairs = 2 * 3 * 24 * 24
  assert largest("einsum") == pairs and largest("chunked") < pairs


@pytest.mark.parametrize("remat", ["none", "dots", "full"])
def test_chunks_are_never_kept_for_the_backward_pass(monkeypatch, remat):
  """Whatever a block keeps of its other products."""
  monkeypatch.setattr(attention, "CHUNK", 8)
  config = networks.DiTConfig(
    resolution=8,
    in_channels=1,
    channels=32,
    channels_per_head=16,
    patch=1,
    depth=1,
    attention="chunked",
    remat=remat,
  )
  network = networks.build(config)
  x, t = jnp.ones((2, 8, 8, 1)), jnp.ones(2)

  def pullback(params):
    cond = networks.null_cond(config, 2)
    return jax.vjp(lambda p: network.F(p, x, t, cond, train=True), params)[1]

  kept = jax.tree.leaves(jax.eval_shape(pullback, network.shapes))
  # Of a head, the weights of all pairs of tokens, in chunks.
  assert not [leaf for leaf in kept if leaf.size == 2 * 2 * 64 * 64]
