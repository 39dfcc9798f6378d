"""Kernels and their bytes, read from HLO and counted from a traced program."""

import jax
import jax.numpy as jnp
import pytest

from scm_jax.planning import kernels, products

MODULE = """\
HloModule jit_draw, is_scheduled=true

%sliced (p.0: f32[8,100], p.1: s32[]) -> f32[1,100] {
  %p.0 = f32[8,100]{1,0} parameter(0)
  %p.1 = s32[] parameter(1)
  %zero = s32[] constant(0)
  ROOT %row = f32[1,100]{1,0} dynamic-slice(%p.0, %p.1, %zero), \
dynamic_slice_sizes={1,100}
}

%updated (q.0: f32[8,100], q.1: f32[1,100], q.2: s32[]) -> f32[8,100] {
  %q.0 = f32[8,100]{1,0} parameter(0)
  %q.1 = f32[1,100]{1,0} parameter(1)
  %q.2 = s32[] parameter(2)
  ROOT %put = f32[8,100]{1,0} dynamic-update-slice(%q.0, %q.1, %q.2, %q.2)
}

%body (state: (s32[], f32[100])) -> (s32[], f32[100]) {
  %state = (s32[], f32[100]{0}) parameter(0)
  %i = s32[] get-tuple-element(%state), index=0
  %x = f32[100]{0} get-tuple-element(%state), index=1
  %y = f32[100]{0} negate(%x)
  ROOT %next = (s32[], f32[100]{0}) tuple(%i, %y)
}

%condition (before: (s32[], f32[100])) -> pred[] {
  %before = (s32[], f32[100]{0}) parameter(0)
  ROOT %less = pred[] constant(true)
}

ENTRY %main (w: f32[8,100], n: s32[]) -> f32[100] {
  %w = f32[8,100]{1,0} parameter(0), metadata={op_name="model['w']"}
  %n = s32[] parameter(1), metadata={op_name="n"}
  %turned = f32[8,100]{0,1} copy(%w)
  %row = f32[1,100]{1,0} fusion(%turned, %n), kind=kLoop, calls=%sliced
  %all = f32[8,100]{1,0} fusion(%w, %row, %n), kind=kLoop, calls=%updated
  %library = (f32[100]{0}, s8[4096]{0}) custom-call(%row, %w), \
custom_call_target="__cublas$lt$matmul", metadata={op_name="(dot)"}
  %z = f32[100]{0} get-tuple-element(%library), index=0
  %near = f32[100]{0:T(128)S(1)} negate(%z)
  %start = (s32[], f32[100]{0}) tuple(%n, %near)
  %loop = (s32[], f32[100]{0}) while(%start), condition=%condition, \
body=%body, backend_config={"known_trip_count":{"n":"3"}}
  ROOT %out = f32[100]{0} get-tuple-element(%loop), index=1
}
"""
ROW, WHOLE, NUMBER = 400, 3200, 4


def test_by_hand():
  """The copy depends on the model alone; rows are read and written as rows."""
  found = {k.opcode + k.library: [] for k in kernels.parse(MODULE, "model")}
  for kernel in kernels.parse(MODULE, "model"):
    found[kernel.opcode + kernel.library].append(kernel[2:])
  assert found == {
    "copy": [(1, WHOLE, WHOLE, True)],
    "fusion": [
      (1, ROW + NUMBER, ROW, False),
      (1, ROW + NUMBER, ROW, False),
    ],
    "custom-call__cublas$lt$matmul": [(1, ROW + WHOLE, ROW, False)],
    # One result lies in a TPU's on-chip memory; the other is in a loop.
    "negate": [(1, ROW, 0, False), (3, ROW, ROW, False)],
  }
  assert kernels.count(kernels.parse(MODULE, "model")) == 8


def test_a_real_program():
  """A product reads two matrices and writes one, whatever calls it."""
  a, b = jnp.ones((64, 32)), jnp.ones((32, 16))
  text = jax.jit(lambda a, b: a @ b).lower(a, b).compile().as_text()
  found = kernels.parse(text, "b")
  assert kernels.moved(found) >= 4 * (64 * 32 + 32 * 16 + 64 * 16)
  assert not any(kernel.alone for kernel in found)


def convolution(x, w):
  numbers = ("NHWC", "HWIO", "NHWC")
  return jax.lax.conv_general_dilated(
    x, w, (2, 1), "SAME", rhs_dilation=(1, 2), dimension_numbers=numbers
  )


@pytest.mark.parametrize(
  "f, shapes",
  [
    (convolution, [(2, 8, 7, 3), (3, 3, 3, 5)]),
    (jnp.matmul, [(4, 5, 6), (4, 6, 7)]),
  ],
)
def test_products_are_counted_as_xla_counts_them(f, shapes):
  arrays = [jnp.ones(shape, jnp.bfloat16) for shape in shapes]
  traced = jax.jit(f).trace(*arrays)
  found = products.cost(traced.jaxpr)
  assert found.flops == traced.lower().cost_analysis()["flops"]
  sizes = [array.size for array in (*arrays, f(*arrays))]
  assert found.bytes == 2 * sum(sizes)


def test_a_loop_counts_each_iteration():
  def loop(x, w):
    return jax.lax.scan(lambda x, _: (jnp.tanh(x @ w), None), x, length=5)[0]

  x, w = jnp.ones((2, 3)), jnp.ones((3, 3))
  once = products.cost(jax.jit(jnp.matmul).trace(x, w).jaxpr)
  assert products.cost(jax.jit(loop).trace(x, w).jaxpr) == (
    5 * once.flops,
    5 * once.bytes,
  )
