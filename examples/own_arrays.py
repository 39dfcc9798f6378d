"""Trains a teacher and its sCD student on images and labels in NumPy arrays.

    python examples/own_arrays.py runs/own 2000    # steps; minutes on 2 cores

The last line names a picture of samples that the student draws in two steps.
Replace `load_arrays` by your own.
"""

import pathlib
import sys

import numpy as np

from scm_jax import image_grid, load
from scm_jax.data import pipeline
from scm_jax.defaults import get_defaults
from scm_jax.training import loop


def load_arrays() -> tuple[np.ndarray, np.ndarray]:
  """Returns images, uint8 [N, H, W, C], and labels 0..K-1, int [N]."""
  from sklearn import datasets

  digits = datasets.load_digits()
  return np.uint8(digits.images * 255 / 16)[..., None], digits.target


def make_config(run: str, images: np.ndarray, labels: np.ndarray, steps: int):
  """Returns a small config; see scm_jax/defaults.py for every field."""
  config = get_defaults(run)
  config.batch_size, config.total_steps = 32, steps
  config.log_every = config.checkpoint_every = max(steps // 4, 1)
  _, config.data.size, _, config.data.channels = images.shape
  assert labels.min() == 0, "classes count from 0"
  config.data.num_classes = int(labels.max()) + 1
  scaled = images / 127.5 - 1  # images are seen in [-1, 1], then normalised
  config.data.mean, config.data.std = float(scaled.mean()), float(scaled.std())
  config.network.update(channels=16, channel_mult=(1,), num_blocks=1)
  config.network.update(attn_resolutions=(), channels_per_head=16)
  config.optimizer.update(decay_steps=2000, rampup_images=10_000)
  config.sample.update(num=40, solver_steps=8)
  return config


def main(folder: pathlib.Path, steps: int) -> None:
  images, labels = load_arrays()
  elements = [
    {"image": image, "label": label}
    for image, label in zip(images, labels, strict=True)
  ]
  # A function from the number of steps done to any iterator of batches.
  batches = pipeline.Batches(elements, batch_size=32, seed=0).iterate
  config = make_config("teacher", images, labels, steps)
  loop.train(config, str(folder / "teacher"), batches)
  config = make_config("scd", images, labels, steps)
  config.teacher = str(folder / "teacher")
  config.objective.warmup_steps = steps // 4
  config.optimizer.learning_rate = 1e-3
  loop.train(config, str(folder / "student"), batches)
  samples = load(folder / "student").sample(num=40, steps=2)
  grid = image_grid.image_grid(samples, 10)
  print(image_grid.save_png(folder / "samples.png", grid))


if __name__ == "__main__":
  if len(sys.argv) != 3 or not sys.argv[2].isdigit():
    sys.exit(__doc__)
  main(pathlib.Path(sys.argv[1]), int(sys.argv[2]))
