"""Draws and takes a train step on the devices here, and prints what came of it.

    python tests/gpu/program.py EXPORT

A process of its own, because JAX's platform is fixed when it starts.
"""

import importlib.util
import json
import pathlib
import sys

import jax
import numpy as np

import scm_jax
from scm_jax import networks

LABELS = np.arange(20) % 10
DTYPES = ("float32", "bfloat16", "float16")
FAMILIES = pathlib.Path(__file__).parents[1] / "training" / "every_family.py"


def every_family():
  """The module that makes small train steps; tests are no package."""
  spec = importlib.util.spec_from_file_location("every_family", FAMILIES)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


def main(export):
  families = every_family()
  result = {
    "platform": jax.default_backend(),
    "samples": {
      dtype: scm_jax.load(export, dtype=dtype).sample(LABELS, steps=2).tolist()
      for dtype in DTYPES
    },
  }
  for family in networks.FAMILIES:
    fields = {"offload": ("averages", "moments")}
    made = families.make_program(families.make_config(family, **fields))
    state, metrics = families.step(made)
    result[family] = {
      "memories": families.memories(state),
      "loss": float(metrics["loss"]),
    }
  print(json.dumps(result))


if __name__ == "__main__":
  main(sys.argv[1])
