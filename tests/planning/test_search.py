"""The search, with a compiler that counts instead of compiling."""

import pytest

from scm_jax.errors import ConfigError
from scm_jax.networks import layers
from scm_jax.planning import estimate, search, targets

TARGET = targets.parse("a100-40gb:1x4")
CAPACITY = int(TARGET.card.memory * TARGET.card.usable)
FLOPS = {"none": 1e15, "dots": 1.1e15, "full": 1.3e15}
TEACHER = 10**6  # bytes
KEPT = {"none": 1.0, "dots": 0.6, "full": 0.1}


@pytest.fixture
def machine(monkeypatch):
  """`machine(state, activations)`: the list of what will be compiled."""

  def replace(state, activations):
    ask, plan, compiled = _machine(state, activations)
    monkeypatch.setattr(search.compiler, "ask", ask)
    monkeypatch.setattr(search.planning, "plan", plan)
    return compiled

  return replace


def _machine(state, activations):
  """Returns a worker, a compiler and the list of what it compiled.

  Args:
    state: the bytes of the whole state.
    activations: the bytes a device that one pass keeps without remat.
  """
  compiled = []

  def row(data, fsdp):
    gather = {"kind": "all-gather", "bytes": 9e9 * (fsdp - 1) / fsdp}
    reduce = {"kind": "all-reduce", "bytes": 1e9 * (data - 1) / data}
    return {
      "resident": {
        "parameters": state // fsdp,
        "moments": 0,
        "averages": 0,
        "teacher": TEACHER // fsdp,
      },
      "traffic": [
        gather | {"size": fsdp, "local": fsdp},
        reduce | {"size": data, "local": data},
      ],
    }

  def ask(config, target, flops=False, meshes=()):
    if flops:
      return {"flops": {"step": FLOPS[config.network.remat], "forward": 1e14}}
    return {"arithmetic": [row(*mesh) for mesh in meshes]}

  def plan(config, target):
    compiled.append(
      (config.mesh.fsdp, config.microbatches, config.network.remat)
    )
    peak = state // config.mesh.fsdp
    peak += KEPT[config.network.remat] * activations / config.microbatches
    return {"peak_bytes_per_device": peak, "fits": peak <= CAPACITY}

  return ask, plan, compiled


def test_policies_are_known():
  assert set(search.REMAT) == set(layers.POLICIES)


def test_plenty_of_memory(config, machine):
  """Nothing is sharded, repeated or computed twice."""
  compiled = machine(state=10**9, activations=10**9)
  result = search.search(config, TARGET)
  assert result["fits"] and compiled == [(1, 1, "none")]
  assert result["search"]["flags"] == [
    "--config.mesh.data=4",
    "--config.mesh.fsdp=1",
    "--config.microbatches=1",
    "--config.network.remat=none",
  ]
  assert result["search"]["images_per_pass"] == 4  # 16 images, 4 devices


def test_large_state(config, machine):
  """What is known not to fit is not compiled."""
  compiled = machine(state=3 * CAPACITY, activations=10**9)
  result = search.search(config, TARGET)
  assert result["fits"] and compiled == [(4, 1, "none")]


def test_large_activations(config, machine):
  """The fastest that fits, of all ways; each failure spares others."""
  activations = 2.5 * CAPACITY
  compiled = machine(state=CAPACITY // 4, activations=activations)
  result = search.search(config, TARGET)
  assert result["fits"]
  ranked = search.candidates(config, TARGET)
  assert ranked == sorted(ranked, key=lambda c: c.seconds)

  def fits(c):
    rest = KEPT[c.remat] * activations / c.microbatches
    return c.resident + rest <= CAPACITY

  best = next(c for c in ranked if fits(c))
  assert result["search"]["flags"] == best.flags()
  assert len(compiled) == len(set(compiled)) < ranked.index(best) + 1
  assert [t["fits"] for t in result["search"]["tried"]][-1]


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_times_are_those_of_a_plan(config, machine, dtype):
  """By the type of the products; the update does not touch the teacher."""
  machine(state=10**9, activations=0)
  config.network.dtype = dtype
  card = TARGET.card
  slower = card.cost(dtype, config.network.precision)
  assert slower == (16 if dtype == "float32" else 1)
  (found,) = (
    c
    for c in search.candidates(config, TARGET)
    if (c.fsdp, c.microbatches, c.remat) == (1, 1, "full")
  )
  compute = slower * FLOPS["full"] / 4 / (card.flops * estimate.EFFICIENCY)
  sent = 1e9 * 3 / 4 / card.link
  expected = compute + 2 * 10**9 / card.bandwidth + sent
  assert found.seconds == pytest.approx(expected, rel=1e-9)
  assert found.resident == 10**9 + TEACHER


def test_nothing_fits(config, machine):
  compiled = machine(state=10**9, activations=10**13)
  result = search.search(config, TARGET)
  assert not result["fits"] and len(compiled) >= 1
  compiled = machine(state=5 * CAPACITY, activations=0)
  with pytest.raises(ConfigError, match="more devices"):
    search.search(config, TARGET)
  assert not compiled


def test_batch_does_not_divide(config, machine):
  config.batch_size = 18
  machine(0, 0)
  with pytest.raises(ConfigError, match="batch_size=18"):
    search.search(config, TARGET)
