"""Prints statistics of the digits' pixels, made on 8 virtual devices.

A process of its own, because the number of devices is fixed when JAX starts.
"""

import json
import os

os.environ["JAX_NUM_CPU_DEVICES"] = "8"
os.environ["JAX_PLATFORMS"] = "cpu"

import numpy as np
from sklearn import datasets

from scm_jax.metrics import streaming
from scm_jax.metrics.pixels import pixel_extractor


def main():
  images = np.round(datasets.load_digits().images * (255 / 16))
  images = images.astype(np.uint8)[:700, ..., None]
  extraction = streaming.Extraction([pixel_extractor((8, 8, 1))])
  parts = extraction(images[:128])["pixels"]["features"].addressable_shards
  found = streaming.collect_images(images, extraction, size=100)
  moments = found["pixels"]["moments"]
  print(
    json.dumps(
      {
        "devices": extraction.devices,
        "parts": [len(part.data) for part in parts],
        "mean": moments.mean.tolist(),
        "m2": moments.m2.tolist(),
      }
    )
  )


main()
