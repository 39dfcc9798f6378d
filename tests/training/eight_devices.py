"""Trains a tiny student on 8 virtual devices and prints what came of it.

A process of its own, because the number of devices is fixed when JAX starts.
`test_sharding.py` looks at the object that it prints.
"""

import json
import os
import re
import sys

os.environ["JAX_NUM_CPU_DEVICES"] = "8"

import critic
import jax
import jax.numpy as jnp
import numpy as np

from scm_jax import objectives
from scm_jax.defaults import get_defaults
from scm_jax.training import program, resolve, sharding
from scm_jax.training.checkpoints.storage import Checkpoints
from scm_jax.training.step import seed_of

BATCH = 16
COLLECTIVES = (
  *("all-gather", "all-reduce", "reduce-scatter"),
  *("all-to-all", "collective-permute"),
)
# Name: devices, sizes of the mesh, microbatches, rematerialisation, and other
# fields of the config.
LAYOUTS = {
  "alone": (1, 1, 1, 1, "none"),
  "data": (8, 8, 1, 1, "none"),
  "fsdp": (8, 1, 8, 2, "none"),
  "both": (8, 2, 4, 1, "full"),
  "half": (4, 2, 2, 4, "none"),
}
# What few runs use.
RARE = {
  **{name: LAYOUTS[name] for name in ("alone", "both")},
  "offloaded": (8, 2, 4, 1, "full", {"offload": ("averages", "moments")}),
  # In float16 with a scaled gradient, with gradients summed in float32 by name,
  # in a tangent's own pass, and in a loop that may do a part again.
  "float16": (8, 2, 4, 2, "none", {"network.dtype": "float16"}),
  "reduced": (8, 1, 8, 1, "none", {"sharding.reduce_dtype": "float32"}),
  "apart": (8, 2, 4, 1, "none", {"objective.tangent_dtype": "float32"}),
  "isolated": (8, 2, 4, 2, "none", {"isolate": True}),
  "filters": (8, 2, 4, 1, "none", {"sharding.filter_order": "OHWI"}),
}


def make_config(data, fsdp, microbatches, remat, fields=None):
  """A distillation with everything that is drawn: labels, scales, dropout."""
  config = get_defaults()
  config.run = "scd"
  config.batch_size = BATCH
  config.data.update(size=4, channels=1, num_classes=3)
  config.network.update(
    channels=8, channel_mult=(1,), num_blocks=1, attn_resolutions=()
  )
  config.network.update(channels_per_head=8, dropout=0.2, remat=remat)
  config.optimizer.rampup_images = 0
  config.objective.update(label_dropout=0.1, warmup_steps=1)
  config.objective.guidance = "sampled"
  config.mesh.update(data=data, fsdp=fsdp)
  config.sharding.min_size = 64
  config.microbatches = microbatches
  config.update_from_flattened_dict(fields or {})
  return config


class Run:
  """One layout's program, with a state and a teacher for it."""

  def __init__(self, devices, *layout):
    self.config = resolve.resolve(make_config(*layout))
    self.mesh = sharding.make_mesh(self.config, jax.devices()[:devices])
    self.program = program.make(self.config, self.mesh)
    self.compiled = self.program.step.lower(*self.program.arguments).compile()

  def initialize(self):
    """The state as a new run draws it."""
    # The output gain starts at 0; nothing else would move at first.
    start = {"denoiser": {"out_gain": jnp.ones(())}}
    start = start | dict.fromkeys(self.config.spec.extra, start)
    return program.first_state(self.config, self.program.state, start)

  def take(self, state, teacher):
    """Begins with those of another layout."""
    where = sharding.formats
    self.state = jax.device_put(
      state, where(self.program.state), may_alias=False
    )
    self.teacher = jax.device_put(
      teacher, where(self.program.teacher), may_alias=False
    )

  def batch(self, step):
    rng = np.random.default_rng(step)
    images = rng.integers(0, 256, (BATCH, 4, 4, 1)).astype(np.uint8)
    images[3] = images[5]  # so that samples differ by their draws alone
    labels = rng.integers(0, 3, BATCH).astype(np.int32)
    return sharding.place_batch({"image": images, "label": labels}, self.mesh)

  def step(self, state, step):
    batch, seed = self.batch(step), seed_of(self.config)
    return self.compiled(state, self.teacher, batch, seed)


def difference(a, b):
  """Largest distance of two trees, leaf by leaf, relative to the first's."""
  a, b = jax.device_get((a, b))
  size = lambda x: np.abs(x).max(initial=0)
  far = jax.tree.map(lambda x, y: size(x - y) / (size(x) or 1.0), a, b)
  return max(map(float, jax.tree.leaves(far)))


def kinds(state):
  """Of the memories that arrays lie in, by field; scalars apart."""
  fields = ("params", "opt_state", "ema")
  arrays = lambda tree: [x for x in jax.tree.leaves(tree) if x.ndim]
  kind = lambda field: {
    x.sharding.memory_kind for x in arrays(getattr(state, field))
  }
  return {field: sorted(kind(field)) for field in fields}


def count(compiled):
  text = compiled.as_text()
  return {
    name: len(re.findall(rf" {name}(?:-start)?\(", text))
    for name in COLLECTIVES
  }


def reduced_in(reduce_dtype):
  """Types in which a bfloat16 network's gradients are summed and scattered.

  Of the program before the compiler, which on CPUs widens all of bfloat16.
  """
  fields = {
    "network.dtype": "bfloat16",
    "sharding.reduce_dtype": reduce_dtype,
  }
  config = make_config(1, 8, 1, "none", fields)
  made = program.make(resolve.resolve(config), sharding.make_mesh(config))
  text = made.step.lower(*made.arguments).as_text()
  found = re.findall(
    r"stablehlo\.reduce_scatter.*?\}\) : \(tensor<[\dx]*(\w+)>", text, re.S
  )
  return {name: found.count(name) for name in set(found)}


def placement(run):
  """For each array of the state: its shape, and the parts' shapes."""
  trees = {"state": run.state, "teacher": run.teacher}
  return {
    jax.tree_util.keystr(path, simple=True, separator="/"): [
      list(leaf.shape),
      sorted({shard.data.shape for shard in leaf.addressable_shards}),
    ]
    for path, leaf in jax.tree_util.tree_leaves_with_path(trees)
  }


def memory(run):
  """Bytes: of the state's shards on one device, and what a step aliases."""
  leaves = jax.tree.leaves(run.program.state)
  held = sum(
    int(np.prod(leaf.sharding.shard_shape(leaf.shape))) * leaf.dtype.itemsize
    for leaf in leaves
  )
  return [held, run.compiled.memory_analysis().alias_size_in_bytes]


def second_network(teacher):
  """How far a critic's gradient on 8 devices is from that on one.

  Also the memories in which its moments rest, scalars apart, and its
  gradient's size.
  """
  objectives.OBJECTIVES["critic"] = critic.CRITIC
  fields = {"run": "critic"}
  rest = fields | {"offload": ("moments",)}
  alone = Run(1, 1, 1, 1, "none", fields)
  many = Run(8, 2, 4, 2, "none", rest)
  start = jax.device_get(alone.initialize())
  after = {}
  for name, run in {"alone": alone, "many": many}.items():
    run.take(start, teacher)
    after[name] = run.step(run.state, 0)[0].extra["critic"]
  first = lambda extra: extra.opt_state[0].mu
  size = max(np.abs(x).max() for x in jax.tree.leaves(first(after["alone"])))
  return {
    "gradients": difference(first(after["alone"]), first(after["many"])),
    "size": float(size),
    "memory": sorted(
      {
        x.sharding.memory_kind
        for x in jax.tree.leaves(first(after["many"]))
        if x.ndim
      }
    ),
  }


def main(folder, rare=""):
  layouts = RARE if rare else LAYOUTS
  runs = {name: Run(*layout) for name, layout in layouts.items()}
  result = {name: {} for name in runs}
  start = jax.device_get(runs["alone"].initialize())
  # Another network than the student's: its guidance input is missing.
  teacher = jax.tree.map(lambda x: 0.9 * x, dict(start.params))
  del teacher["denoiser"]["embedding"]["emb_guidance"]
  states, metrics = {}, {}
  for name, run in runs.items():
    run.take(start, teacher)
    result[name]["collectives"] = count(run.compiled)
    result[name]["placement"] = placement(run)
    result[name]["memory"] = memory(run)
    states[name], metrics[name] = run.step(run.state, 0)
  for name in runs:
    # After one step Adam's first moment is the gradient, times 1 - b1.
    moments = (states["alone"].opt_state[0].mu, states[name].opt_state[0].mu)
    result[name]["gradients"] = difference(*moments)
    result[name]["metrics"] = difference(metrics["alone"], metrics[name])
    result[name]["loss"] = float(metrics[name]["loss"])
  if rare:
    result["reduced_in"] = {name: reduced_in(name) for name in ("", "float32")}
    result["second"] = second_network(teacher)
    changed = difference(states["both"], states["offloaded"])
    result["offloaded"]["changed"] = changed
    result["offloaded"]["after_a_step"] = kinds(states["offloaded"])
  else:
    result["fsdp"]["initialized"] = difference(start, runs["fsdp"].initialize())
  restore(folder, runs, states, result)
  print(json.dumps(result))


def restore(folder, runs, states, result):
  """Notes how a checkpoint of 8 devices goes on there, and on 4 and 1."""
  writer = Checkpoints(folder, keep=1)
  writer.save(states["both"])
  writer.wait()
  saved = jax.device_get(states["both"])
  _, expected = runs["both"].step(states["both"], 1)
  for name in ("both", "half", "alone", "offloaded"):
    if name not in runs:
      continue
    state = writer.restore(runs[name].program.state)
    result[name]["restored"] = difference(saved, state)
    result[name]["kinds"] = kinds(state)
    where = {len(leaf.sharding.device_set) for leaf in jax.tree.leaves(state)}
    result[name]["devices"] = sorted(where)
    _, metrics = runs[name].step(state, 1)
    result[name]["continued"] = difference(expected, metrics)
  config = make_config(1, 2, 1, "none")
  two = program.abstract_state(
    resolve.resolve(config), sharding.make_mesh(config, jax.devices()[:2])
  )
  result["two"] = {"restored": difference(saved, writer.restore(two))}
  writer.close()


if __name__ == "__main__":
  main(*sys.argv[1:])
