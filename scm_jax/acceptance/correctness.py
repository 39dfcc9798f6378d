"""Compares what the devices here compute with what a CPU computed.

Weights and images are NumPy's random numbers, which are the same everywhere.
The CPU's results in float32 are stored in `reference.json`, and beside them how
far its own results in narrower types are from these.
"""

import base64
import zlib
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
import optax

from scm_jax import networks
from scm_jax.acceptance import runs
from scm_jax.acceptance.parts import Request
from scm_jax.defaults import Run
from scm_jax.interop import export_folder
from scm_jax.objectives import OBJECTIVES
from scm_jax.training import program, resolve, sharding
from scm_jax.training.step import seed_of

DTYPES = ("float32", "bfloat16", "float16")
SAMPLES = 20  # images that are drawn in two steps
# The distance of float32's results from the CPU's that rounding explains: the
# mean of images in levels of 255, and the rest in parts of the whole.
ROUNDING = {"samples": 0.02, "step": 1e-3}
# How much further than the CPU's a narrower type's results may be.
MARGIN = 2.0


def measure(request: Request) -> Iterator[tuple[str, Any]]:
  """Yields, for every check, the distance and whether it is small enough."""
  stored = runs.reference()["results"]
  for name in checks(request.tiny):
    if name in request.have:
      continue
    if name not in stored:
      yield name, {"passed": None, "why": "no result of a CPU is stored"}
      continue
    kind, own = name.split(",")[0], stored[name].get("distance", {})
    found = _distances(kind, compute(name), stored[_exact(name)]["values"])
    limits = {
      part: max(ROUNDING[kind], MARGIN * own.get(part, 0.0)) for part in found
    }
    passed = all(found[part] <= limits[part] for part in found)
    yield name, {"distance": found, "limit": limits, "passed": passed}


def checks(tiny: bool = False) -> list[str]:
  """Returns the names of all checks: KIND,OBJECTIVE,TYPE; float32 first."""
  if tiny:
    return ["samples,scd,float32", "step,scd,float32"]
  # TPUs have no float16.
  dtypes = DTYPES[:2] if jax.default_backend() == "tpu" else DTYPES
  names = [f"samples,scd,{dtype}" for dtype in dtypes]
  names += [f"step,{name},float32" for name in OBJECTIVES]
  return names + [f"step,scd,{dtype}" for dtype in dtypes[1:]]


def reference() -> Iterator[tuple[str, Any]]:
  """Yields what `reference.json` stores of every check, computed here."""
  exact: dict[str, Any] = {}
  for name in checks():
    values = compute(name)
    if name == _exact(name):
      exact[name] = values
      yield name, {"values": values}
    else:
      kind = name.split(",")[0]
      yield name, {"distance": _distances(kind, values, exact[_exact(name)])}


def _exact(name: str) -> str:
  """Returns the name of the same check in float32."""
  return name.rpartition(",")[0] + ",float32"


def compute(name: str) -> dict[str, Any]:
  """Returns the results of a check on the devices here, in JSON's types."""
  kind, objective, dtype = name.split(",")
  changes = {"network.dtype": dtype, "optimizer.rampup_images": 0}
  run = runs.run(runs.digits(objective, tiny=False), **changes)
  return {"samples": _samples, "step": _step}[kind](run)


def _samples(run: Run) -> dict[str, Any]:
  """Returns images of two steps, drawn together and one by one, compressed."""
  average = _random(networks.build(run.network).shapes)
  sampler = export_folder.as_computed(resolve.model(run, average))

  def packed(batch: int) -> str:
    drawer = sampler.changed(batch_size=batch)
    images = drawer.sample(np.arange(SAMPLES) % 10, steps=2)
    return base64.b64encode(zlib.compress(images.tobytes())).decode()

  return {"images": packed(SAMPLES), "alone": packed(1)}


def _step(run: Run) -> dict[str, Any]:
  """Returns the loss of a train step and what is left of its state.

  After the first step the optimiser's means are the gradient, times a number.
  The learning rate's ramp-up, which begins at zero, is left out.
  """
  mesh = sharding.make_mesh(run, jax.devices()[:1])
  made = program.make(run, mesh)
  start = _random(made.state.trained)
  state = program.first_state(run, made.state, start)
  batch = _random(made.batch)
  batch["label"] = np.arange(run.batch_size, dtype=np.int32) % 10
  teacher = _random(made.teacher, seed=1)
  state, metrics = made.step(state, teacher, batch, seed_of(run))
  moments = [state.opt_state, *(e.opt_state for e in state.extra.values())]
  return {
    "loss": float(metrics["loss"]),
    "gradient": _sketch([optax.tree.get(each, "mu") for each in moments]),
    "parameters": _sketch(state.trained),
    "averages": _sketch(state.ema),
  }


def _random(shapes: Any, seed: int = 0) -> Any:
  """Returns a tree of NumPy's normal numbers, of bytes where it has integers.

  Numbers that a network adds or multiplies to its own are so not zero, as those
  of a new network are.
  """
  generator = np.random.default_rng(seed)

  def draw(leaf):
    if np.issubdtype(leaf.dtype, np.integer):
      return generator.integers(256, size=leaf.shape).astype(leaf.dtype)
    return generator.standard_normal(leaf.shape).astype(leaf.dtype)

  return jax.tree.map(draw, shapes)


def _sketch(tree: Any) -> dict[str, list[float]]:
  """Returns two numbers of each array, from which distances follow.

  They are its norm and its product with normal numbers. The difference of two
  arrays' products has the mean square of the norm of their difference.
  """
  generator = np.random.default_rng(2)
  norms, products = [], []
  for leaf in jax.tree.leaves(tree):
    leaf = np.asarray(leaf).astype(np.float64)
    norms.append(float(f"{np.linalg.norm(leaf):.9g}"))
    direction = generator.standard_normal(leaf.shape)
    products.append(float(f"{np.sum(direction * leaf):.9g}"))
  return {"norms": norms, "products": products}


def _distances(kind: str, found: Any, expected: Any) -> dict[str, float]:
  """Returns how far results are from the expected ones, part by part.

  Of a step's arrays it is the root of the mean squared relative distance.
  """
  if kind == "samples":
    distance = lambda part: np.abs(
      _unpacked(found[part]) - _unpacked(expected[part])
    )
    return {part: float(distance(part).mean()) for part in expected}
  parts = {"loss": abs(found["loss"] / expected["loss"] - 1)}
  for name in expected:
    if name == "loss":
      continue
    a, b = (np.asarray(s["products"]) for s in (found[name], expected[name]))
    norms = np.asarray(expected[name]["norms"])
    there = norms > 0
    relative = (a - b)[there] / norms[there]
    parts[name] = float(np.sqrt(np.mean(np.square(relative))))
  return parts


def _unpacked(text: str) -> np.ndarray:
  packed = zlib.decompress(base64.b64decode(text))
  return np.frombuffer(packed, np.uint8).astype(np.float64)
