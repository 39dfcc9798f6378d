"""Augments a batch on 1 and on 8 virtual devices; prints how they differ.

A process of its own, because the number of devices is fixed when JAX starts.
"""

import json
import os

os.environ["JAX_NUM_CPU_DEVICES"] = "8"

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from scm_jax.data import augmentation


def main():
  rng = np.random.default_rng(0)
  images = jnp.asarray(rng.normal(size=(32, 8, 8, 3)), jnp.float32)
  augment = lambda x: augmentation.augment(x, jax.random.key(1), 0.5)
  mesh = Mesh(np.asarray(jax.devices()), ("data",))
  split = NamedSharding(mesh, PartitionSpec("data"))
  alone = jax.jit(augment)(images)
  program = jax.jit(augment, in_shardings=split, out_shardings=split)
  shared = program(jax.device_put(images, split))
  text = program.lower(images).compile().as_text()
  moved = ("all-gather", "all-to-all", "all-reduce", "collective-permute")
  print(
    json.dumps(
      {
        "apart": [
          float(np.abs(np.asarray(a) - np.asarray(b)).max())
          for a, b in zip(alone, shared, strict=True)
        ],
        "changed": float(np.abs(np.asarray(alone[0]) - images).max()),
        "collectives": [name for name in moved if name in text],
      }
    )
  )


if __name__ == "__main__":
  main()
