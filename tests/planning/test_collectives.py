"""Collectives read from HLO: written by hand, and of a real program."""

import pytest

from scm_jax.planning import collectives

MODULE = """\
HloModule jit_step, is_scheduled=true

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %sum = f32[] add(%a, %b)
}

%body (state: (s32[], f32[8])) -> (s32[], f32[8]) {
  %state = (s32[], f32[8]{0}) parameter(0)
  %x = f32[8]{0} get-tuple-element(%state), index=1
  %gathered = bf16[4,8]{1,0:T(8,128)(2,1)} all-gather(%x), channel_id=1, \
replica_groups=[2,4]<=[8], dimensions={0}, use_global_device_ids=true
  %scattered = f32[8]{0} reduce-scatter(%y), channel_id=2, \
replica_groups={{0,1,2,3},{4,5,6,7}}, dimensions={0}, to_apply=%add
  ROOT %next = (s32[], f32[8]{0}) tuple(%i, %scattered)
}

%condition (state: (s32[], f32[8])) -> pred[] {
  %state.1 = (s32[], f32[8]{0}) parameter(0)
  ROOT %less = pred[] compare(%i, %n), direction=LT
}

%wrapped (p: f32[16]) -> f32[32] {
  %p = f32[16]{0} parameter(0)
  ROOT %inner = f32[32]{0} all-gather(%p), replica_groups=[4,2]<=[2,4]T(1,0), \
dimensions={0}
}

ENTRY %main (p0: f32[8]) -> f32[8] {
  %p0 = f32[8]{0} parameter(0)
  %loop = (s32[], /*index=1*/f32[8]{0}) while(%init), condition=%condition, \
body=%body, backend_config={"known_trip_count":{"n":"3"}}
  %start = ((f32[16]{0}), f32[32]{0}) async-start(%q), calls=%wrapped
  %product = f32[4,4]{1,0} dot(%a, %b), lhs_contracting_dims={1}
  %done = f32[32]{0} async-done(%start), calls=%wrapped
  %reduce-start = (f32[4]{0}, u8[6]{0}) all-reduce-start(%u, %v), \
replica_groups=mesh['a'=4,'b'=2], device_ids=([2,4]T(1,0)) {'a'}, to_apply=%add
  %reduce-done = (f32[4]{0}, u8[6]{0}) all-reduce-done(%reduce-start)
  %gather-start = (f32[2]{0}, f32[16]{0}) all-gather-start(%w), \
replica_groups={}, dimensions={0}
  %scatter-start = ((f32[16]{0}), f32[2]{0}) reduce-scatter-start(%r), \
replica_groups=[1,8]<=[8], dimensions={0}, to_apply=%add
  %scatter-done = f32[2]{0} reduce-scatter-done(%scatter-start)
  %computed = f32[4]{0} fusion(%p0), kind=kLoop, calls=%add
  %gather-done = f32[16]{0} all-gather-done(%gather-start)
  %moved = f32[5]{0} collective-permute(%z), \
source_target_pairs={{0,1},{1,0}}
  %alone = f32[8]{0} all-reduce(%p0), replica_groups=[8,1]<=[8], to_apply=%add
  ROOT %fused = f32[8]{0} fusion(%p0), kind=kLoop, calls=%add
}
"""


def test_by_hand():
  """Two gathers are overlapped, one of them the one in a call."""
  found = collectives.parse(MODULE, devices=8)
  assert sorted(found) == sorted(
    [
      collectives.Collective("all-gather", 3, 4 * 8 * 2 * 3 / 4, (0, 1, 2, 3)),
      collectives.Collective("reduce-scatter", 3, 8 * 4 * 3.0, (0, 1, 2, 3)),
      collectives.Collective("all-gather", 1, 32 * 4 / 2, (0, 4), "product"),
      # Along the axis of 4 of devices that are numbered in columns.
      collectives.Collective("all-reduce", 1, 22 * 2 * 3 / 4, (0, 1, 2, 3)),
      collectives.Collective(
        "all-gather", 1, 16 * 4 * 7 / 8, tuple(range(8)), "other"
      ),
      collectives.Collective("reduce-scatter", 1, 8.0 * 7, tuple(range(8))),
      collectives.Collective("collective-permute", 1, 20.0, (0, 1)),
    ]
  )
  assert collectives.counts(found) == {
    "all-gather": 5,
    "all-reduce": 1,
    "reduce-scatter": 4,
    "all-to-all": 0,
    "collective-permute": 1,
  }


@pytest.mark.parametrize(
  "opcode, meanwhile", [("convolution", "product"), ("add", "other")]
)
def test_what_is_computed_in_a_fusion(opcode, meanwhile):
  text = f"""\
HloModule jit_step, is_scheduled=true

%fused (a: f32[4]) -> f32[4] {{
  %a = f32[4]{{0}} parameter(0)
  ROOT %b = f32[4]{{0}} {opcode}(%a, %a)
}}

ENTRY %main (p: f32[4]) -> f32[4] {{
  %p = f32[4]{{0}} parameter(0)
  %start = f32[4]{{0}} all-reduce-start(%p), replica_groups={{{{0,1}}}}
  %c = f32[4]{{0}} fusion(%p), kind=kLoop, calls=%fused
  ROOT %done = f32[4]{{0}} all-reduce-done(%start)
}}
"""
  (found,) = collectives.parse(text, devices=2)
  assert found.meanwhile == meanwhile


REAL = """
import jax, jax.numpy as jnp
from jax import lax
from jax.sharding import PartitionSpec as P
from jax.sharding import AxisType
auto = (AxisType.Auto, AxisType.Auto)
mesh = jax.make_mesh((2, 2), ("data", "fsdp"), axis_types=auto)
def part(w, x):
  def body(x, w):
    return x @ lax.all_gather(w, "fsdp", axis=0, tiled=True), None
  x, _ = lax.scan(body, x, w)
  return lax.psum(x, "data")
f = jax.shard_map(part, mesh=mesh, in_specs=(P(None, "fsdp"), P()),
                  out_specs=P(), check_vma=False)
w = jax.ShapeDtypeStruct((5, 6, 6), jnp.float32)
x = jax.ShapeDtypeStruct((3, 6), jnp.float32)
print(jax.jit(f).lower(w, x).compile().as_text())
"""


def test_real(python):
  """A gather in a loop, and a sum, of four virtual devices."""
  text = python("-c", REAL, JAX_NUM_CPU_DEVICES="4", JAX_PLATFORMS="cpu")
  gather, reduce = sorted(collectives.parse(text, devices=4))
  assert gather == ("all-gather", 5, 6 * 6 * 4 / 2, (0, 1), "")
  assert reduce == ("all-reduce", 1, 3 * 6 * 4, (0, 2), "")


def test_no_program():
  with pytest.raises(ValueError, match="no entry"):
    collectives.parse("HloModule empty\n", devices=8)
