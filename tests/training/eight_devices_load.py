"""Loads teachers and starts on 8 virtual devices and prints what came of it.

A process of its own, because the number of devices is fixed when JAX starts.
`test_starting.py` looks at the object that it prints.
"""

import contextlib
import json
import os
import pathlib
import sys

os.environ["JAX_NUM_CPU_DEVICES"] = "8"

import functools
import zlib

import jax
import numpy as np
import pytest

from scm_jax import configuration
from scm_jax.defaults import get_defaults
from scm_jax.interop import export, export_folder, partial_restore
from scm_jax.training import initialization, loop, resolve, sharding, workdir
from scm_jax.training.checkpoints import storage
from scm_jax.training.ema import averaging, loading, posthoc, snapshots

DEVICES = 8
WIDTHS = (0.05, 0.1)
STEP = 8  # of the teachers


def make_config(run, form="trigflow", channels=16, **fields):
  config = get_defaults()
  config.run = run
  config.batch_size = 16
  config.total_steps = 1
  config.ema = WIDTHS
  config.data.update(size=4, channels=1, num_classes=3)
  config.network.update(
    form=form, channels=channels, channel_mult=(1,), num_blocks=1
  )
  config.network.update(attn_resolutions=(), channels_per_head=8)
  config.objective.update(guidance="sampled", label_dropout=0.1)
  config.mesh.update(data=1, fsdp=DEVICES)
  config.sharding.min_size = 64
  config.update(fields)
  return config


def draw(config, seed):
  """An average; unlike an initialisation's, none of its gains is zero."""
  rng = np.random.default_rng(seed)
  normal = lambda leaf: rng.normal(size=leaf.shape).astype(np.float32)
  return jax.tree.map(normal, workdir.param_shapes(config))


def draw_averages(config, seed):
  names = [averaging.name(width) for width in WIDTHS]
  return {name: draw(config, seed + i) for i, name in enumerate(names)}


def write_models(folder):
  """Workdirs of a teacher with snapshots, one with a guide, one to start from,
  and an export of the second.
  """
  config = make_config("teacher")
  weak = make_config("teacher", channels=24)
  plain = workdir.write_averages(
    folder / "plain", config, draw_averages(config, 0), STEP, {}
  )
  writer = snapshots.Snapshots(plain, 4, [averaging.name(w) for w in WIDTHS])
  for step in range(4, STEP, 4):
    writer.save(step, jax.device_put(draw_averages(config, 10 * step)))
  writer.close()
  guided = workdir.write_averages(
    *(folder / "guided", config, draw_averages(config, 0), STEP, {}),
    beside=lambda partial: workdir.write_averages(
      partial / workdir.GUIDE, weak, draw_averages(weak, 5), STEP, {}
    ),
  )
  edm2 = make_config("teacher", form="edm2")
  workdir.write_averages(
    folder / "edm2", edm2, draw_averages(edm2, 9), STEP, {}
  )
  origin = export_folder.Origin(
    json.loads(configuration.to_json(config)), STEP, "0.050"
  )
  model, _ = workdir.load(guided)
  export.write(
    *(model, origin, folder / "export"),
    export.Request(formats=("safetensors",), dtype="bfloat16", num=0),
  )


def split_shapes(config, mesh, trees):
  """Shapes of the arrays that the rule splits; none is also that of a part."""
  placed = jax.tree.leaves(sharding.placed(config, mesh, trees))
  parts = {leaf.sharding.shard_shape(leaf.shape) for leaf in placed}
  whole = {
    leaf.shape for leaf in placed if not leaf.sharding.is_fully_replicated
  }
  assert not parts & whole
  return whole


class Watch:
  """Counts arrays that should be split and lie whole on a device.

  At every return of a function of the modules that load.
  """

  modules = frozenset(
    module.__file__
    for module in (
      *(loading, resolve, storage, loop, posthoc, snapshots, initialization),
      *(workdir, export_folder, partial_restore),
    )
  )

  def __init__(self, shapes):
    self._shapes = shapes
    self.most, self.looked = 0, 0

  def __call__(self, frame, event, arg):
    if event == "return" and frame.f_code.co_filename in self.modules:
      self.look()

  def look(self):
    # An array that was fetched whole is listed with its parts, which are not.
    whole = [
      array
      for array in jax.live_arrays()
      if array.shape in self._shapes
      and array.sharding.shard_shape(array.shape) == array.shape
    ]
    self.looked += 1
    self.most = max(self.most, len(whole))

  @contextlib.contextmanager
  def on(self):
    self.most, self.looked = 0, 0
    self.look()
    assert self.most == 0, "something was left over"
    sys.setprofile(self)
    try:
      yield
    finally:
      sys.setprofile(None)
      self.look()


def by_the_rule(config, mesh, tree):
  """Whether every array lies where the rule says, in parts of that shape."""
  placed = sharding.placed(config, mesh, tree)

  def right(leaf, like):
    part = like.sharding.shard_shape(like.shape)
    shards = leaf.addressable_shards
    return len(shards) == DEVICES and all(s.data.shape == part for s in shards)

  return all(jax.tree.leaves(jax.tree.map(right, tree, placed)))


def fetched(tree):
  return jax.tree.map(lambda leaf: np.array(leaf), tree)


def compare(ours, theirs):
  """Whether two trees are the same bits, and else how far they are apart."""
  assert jax.tree.structure(ours) == jax.tree.structure(theirs)
  pairs = list(zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True))
  assert all(a.dtype == b.dtype and a.shape == b.shape for a, b in pairs)
  return {
    "same": all(a.tobytes() == b.tobytes() for a, b in pairs),
    "apart": max(float(np.abs(a - b).max()) for a, b in pairs),
  }


def golden(stored):
  """The checksum as it always was: of whole arrays, one after the other."""
  value = 0
  guide = stored.model.guidance_params
  for leaf in jax.tree.leaves([stored.average, guide]):
    value = zlib.crc32(np.asarray(leaf).tobytes(), value)
  return value


def load(name, config, mesh, folder, watch):
  """A teacher in its shards, and whole on one device."""
  where = functools.partial(sharding.placed, config, mesh)
  record = folder / f"record_{name}"
  record.mkdir()
  read, kept = workdir.load_stored, []

  def spying(*args):
    kept.append(read(*args))
    return kept[-1]

  with pytest.MonkeyPatch.context() as patch, watch.on():
    patch.setattr(workdir, "load_stored", spying)
    model = initialization.load_teacher(
      resolve.resolve(config), record, False, where
    )
  # The guide is read first.
  average = kept.pop().average
  kept.clear()
  result = {"most": watch.most, "looked": watch.looked}
  noted = json.loads((record / workdir.TEACHER).read_text())
  result["placed"] = by_the_rule(config, mesh, [model.weights, average])
  ours = fetched([model.weights, average])
  del model, average

  whole = workdir.load_stored(config.teacher, config.teacher_ema)
  theirs = fetched([whole.model.weights, whole.average])
  for part, a, b in zip(("weights", "average"), ours, theirs, strict=True):
    result[part] = compare(a, b)
  result["checksum"], result["golden"] = noted["checksum"], golden(whole)
  return result


def start(config, mesh, watch):
  """Likewise what a run without a teacher starts from."""
  where = functools.partial(sharding.placed, config, mesh)
  with watch.on():
    ours = initialization.load_start(resolve.resolve(config), None, where)
  result = {"most": watch.most, "placed": by_the_rule(config, mesh, ours)}
  ours = fetched(ours)
  theirs = fetched(initialization.load_start(resolve.resolve(config), None))
  return result | {"weights": compare(ours, theirs)}


class Begun(Exception):
  """A run has come to its first step."""


def begin(config, folder, watch):
  """What a student's first step is given, whose teacher it starts from."""
  make, seen = loop.program.make, {}

  def spying(*args):
    compiled = make(*args)

    def first_step(state, teacher, *rest):
      held = [(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(teacher)]
      wanted = jax.tree.leaves(compiled.teacher)
      assert held == [(leaf.shape, leaf.dtype) for leaf in wanted]
      for tree, like in ((state, compiled.state), (teacher, compiled.teacher)):
        same = lambda leaf, like: leaf.sharding.is_equivalent_to(
          like.sharding, leaf.ndim
        )
        seen.setdefault("placed", []).append(
          all(jax.tree.leaves(jax.tree.map(same, tree, like)))
        )
      # What was read in float32 is gone.
      [wide] = [s for s in watch.shapes_of_guide if len(s) == 4][:1]
      seen["left"] = sum(
        array.shape == wide and array.dtype == np.float32
        for array in jax.live_arrays()
      )
      raise Begun

    return compiled._replace(step=first_step)

  loop.program.make = spying
  size = config.data.size
  batch = {
    "image": np.zeros((config.batch_size, size, size, 1), np.uint8),
    "label": np.zeros(config.batch_size, np.int32),
  }
  with contextlib.suppress(Begun), watch.on():
    loop.train(config, str(folder), lambda step: iter([batch]))
  return seen | {"most": watch.most, "looked": watch.looked}


def main(folder):
  write_models(folder)
  config = make_config("scd")
  mesh = sharding.make_mesh(config)
  trees = {
    name: workdir.param_shapes(config)
    for name, config in {
      "ours": config,
      "edm2": make_config("teacher", form="edm2"),
      "guide": make_config("teacher", channels=24),
    }.items()
  }
  watch = Watch(split_shapes(config, mesh, trees))
  watch.shapes_of_guide = sorted(
    split_shapes(config, mesh, {"guide": trees["guide"]})
  )
  result = {}
  for name, teacher, average in (
    ("checkpoint", "plain", 0.0),
    ("snapshots", "plain", 0.07),
    ("guided", "guided", 0.1),
    ("export", "export", 0.0),
  ):
    config = make_config("scd", teacher=str(folder / teacher))
    config.teacher_ema = average
    result[name] = load(name, config, mesh, folder, watch)
  config = make_config("sct", start=str(folder / "edm2"))
  result["start"] = start(config, mesh, watch)
  config = make_config("scd", teacher=str(folder / "guided"))
  config.teacher_dtype = "bfloat16"
  result["begin"] = begin(config, folder / "student", watch)
  with watch.on():  # what the watch says of an array on one device
    workdir.load_stored(folder / "plain", 0.0)
  result["whole"] = {"most": watch.most}
  print(json.dumps(result))


if __name__ == "__main__":
  main(pathlib.Path(sys.argv[1]))
