"""The parts of an acceptance, those that matter most first.

A part is a function `measure(request) -> Iterator[(key, value)]`, which yields
each result as soon as it is known, and skips those that the request has. It
runs in a process of its own, so that nothing that it does can end the others.
"""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

from scm_jax.errors import is_installed

SIZES = ("s", "m", "l", "xl", "xxl")
CORRECTNESS = "scm_jax.acceptance.correctness"
DIGITS = "scm_jax.acceptance.digits"
GPU_TESTS = "scm_jax.acceptance.gpu_tests"
LAYERS = "scm_jax.acceptance.layers"
MACHINE = "scm_jax.acceptance.machine"
RESUMPTION = "scm_jax.acceptance.resumption"
SAMPLING = "scm_jax.acceptance.sampling"
STEPS = "scm_jax.acceptance.steps"
DETERMINISTIC = "--xla_gpu_deterministic_ops=true"


class Request(NamedTuple):
  """What a part is asked.

  Attributes:
    options: the options of the part's entry, such as the network's size.
    tiny: whether to take the smallest networks and few repetitions.
    have: the results of earlier calls, by key.
    out: the folder of all results, for files that a later call continues.
  """

  options: Mapping[str, Any]
  tiny: bool
  have: Mapping[str, Any]
  out: pathlib.Path


@dataclasses.dataclass(frozen=True)
class Part:
  """An entry of the registry.

  Attributes:
    title: its title on the page.
    module: the module that has its `measure`.
    options: what distinguishes it from other parts of that module.
    minutes: a part is not begun when less than this is left.
    needs: packages that it needs beside jax, flax, optax, orbax and chex.
    flags: flags that are added to `XLA_FLAGS`.
    devices: whether its process uses the devices itself. Otherwise it starts
      others that do, and must leave them the memory.
  """

  title: str
  module: str
  options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  minutes: float = 1.0
  needs: tuple[str, ...] = ()
  flags: str = ""
  devices: bool = True

  def missing(self) -> list[str]:
    """Returns the packages that it needs and that are not installed."""
    return [name for name in self.needs if not is_installed(name)]


# Minutes that a part takes at most, most of them for compilation: on H200s,
# four programs of XXL's samplers took 2.4 and 6 minutes, and the part of its
# train step had no result in 3.
_LATENCY = {"s": 2.0, "m": 2.0, "l": 2.5, "xl": 2.5, "xxl": 3.5}
_THROUGHPUT = {"s": 2.5, "m": 2.5, "l": 3.0, "xl": 4.0, "xxl": 5.0}
_STEP = {"s": 3.0, "m": 4.0, "l": 5.0, "xl": 5.5, "xxl": 6.0}


def _latency(size: str) -> Part:
  options = {"size": size, "what": "latency"}
  title = f"Two steps for one image, {size.upper()}"
  return Part(title, SAMPLING, options, _LATENCY[size])


def _throughput(size: str) -> Part:
  options = {"size": size, "what": "throughput"}
  title = f"One step, 64 images, and the teacher, {size.upper()}"
  return Part(title, SAMPLING, options, _THROUGHPUT[size])


def _step(run: str, size: str, flags: str = "", order: str = "HWIO") -> Part:
  title = f"Train step of {run}, {size.upper()}"
  if flags:
    title += ", deterministic"
  title += _shown(order)
  options = {"run": run, "size": size, "filter_order": order}
  return Part(title, STEPS, options, _STEP[size], flags=flags)


def _shown(order: str) -> str:
  return "" if order == "HWIO" else f", filters as {order}"


def _resumption(order: str) -> Part:
  title, options = "Resumption" + _shown(order), {"filter_order": order}
  flags = DETERMINISTIC
  return Part(title, RESUMPTION, options, 1.5, flags=flags, devices=False)


_MAIN_JOB = (
  "absl",
  "array_record",
  "clu",
  "grain",
  "matplotlib",
  "ml_collections",
  "pandas",
  "PIL",
  "promise",  # which TFDS imports late
  "sklearn",
  "tensorboard",
  "tensorflow_datasets",
  "textalloc",
  "tqdm",
)

PARTS: dict[str, Part] = {
  "machine": Part("The machine", MACHINE, minutes=0.5),
  "correctness": Part("Correctness", CORRECTNESS, minutes=4.0),
  "sample-xxl": _latency("xxl"),
  "step-scd-xxl": _step("scd", "xxl"),
  "resumption": _resumption("HWIO"),
  "throughput-xxl": _throughput("xxl"),
  "layers": Part("Layers of XXL", LAYERS, {"run": "scd", "size": "xxl"}, 3.0),
  "sample-s": _latency("s"),
  "throughput-s": _throughput("s"),
  "step-scd-s": _step("scd", "s"),
  "step-scd-s-deterministic": _step("scd", "s", DETERMINISTIC),
  "step-scd-s-ohwi": _step("scd", "s", order="OHWI"),
  "resumption-ohwi": _resumption("OHWI"),
  "digits": Part(
    "The main job on digits", DIGITS, {}, 4.0, _MAIN_JOB, devices=False
  ),
  "gpu-tests": Part(
    "Tests that need a GPU",
    GPU_TESTS,
    minutes=2.0,
    needs=("pytest", *_MAIN_JOB),
    devices=False,
  ),
  "step-sct-xxl": _step("sct", "xxl"),
  "step-teacher-xxl": _step("teacher", "xxl"),
  "step-sct-s": _step("sct", "s"),
  **{f"sample-{size}": _latency(size) for size in SIZES[1:-1]},
  **{f"throughput-{size}": _throughput(size) for size in SIZES[1:-1]},
  **{
    f"step-{run}-{size}": _step(run, size)
    for size in SIZES[1:-1]
    for run in ("scd", "sct")
  },
}
# What `--tiny` does: each kind of part once.
TINY = (
  *("machine", "correctness", "resumption"),
  *("sample-s", "throughput-s", "step-scd-s", "layers"),
)
