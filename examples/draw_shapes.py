"""Draws a folder of pictures to train on: circles, squares and triangles.

    python examples/draw_shapes.py photos 3000

makes photos/circle/0000.png and so on, 1,000 of each class, 64x64 pixels. Use
it to follow docs/own_images.md without images of your own.
"""

import pathlib
import sys

import numpy as np
from PIL import Image, ImageDraw

SIDE, SHARP = 64, 4  # pixels; drawn larger and reduced, for smooth edges
CORNERS = {"circle": 60, "square": 4, "triangle": 3}


def draw(shape: str, rng: np.random.Generator) -> Image.Image:
  """Returns one picture of a shape, of random place, size, turn and colours."""
  side = SIDE * SHARP
  # A dark ground and a bright shape, each nearly of one hue.
  ground, colour = rng.integers(0, 70, 3), rng.integers(90, 256, 3)
  picture = Image.new("RGB", (side, side), tuple(map(int, ground)))
  radius = rng.uniform(0.22, 0.38) * side
  centre = rng.uniform(radius, side - radius, 2)
  angles = np.arange(CORNERS[shape]) * 2 * np.pi / CORNERS[shape]
  angles += rng.uniform(0, 2 * np.pi)
  corners = centre + radius * np.stack([np.cos(angles), np.sin(angles)], 1)
  ImageDraw.Draw(picture).polygon(
    [tuple(map(float, corner)) for corner in corners],
    fill=tuple(map(int, colour)),
  )
  return picture.reduce(SHARP)


def main(folder: pathlib.Path, count: int) -> None:
  rng = np.random.default_rng(0)
  for number in range(count):
    shape = list(CORNERS)[number % len(CORNERS)]
    path = folder / shape / f"{number // len(CORNERS):04d}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    draw(shape, rng).save(path)


if __name__ == "__main__":
  if len(sys.argv) != 3 or not sys.argv[2].isdigit():
    sys.exit(__doc__)
  main(pathlib.Path(sys.argv[1]), int(sys.argv[2]))
