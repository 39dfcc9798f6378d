"""Draws the picture of docs/concepts.md: TrigFlow's circle, and its paths.

    python examples/circle.py docs/circle.svg

On the left is one pair of an image and noise: the noisy sample moves along a
quarter of a circle. On the right are the paths of a distribution whose velocity
is known exactly, a mixture of two normal ones in one dimension: a teacher
follows them in many small steps, a consistency model jumps to their ends.
"""

import pathlib
import sys

import matplotlib
import numpy as np
from matplotlib import patches
from matplotlib import pyplot as plt

# Legible on white and on black, so that one file does for both.
GREY, BLUE, ORANGE, GREEN = "#80858f", "#3b82d0", "#e0722d", "#2f9e6e"
SIGMA_D = 0.5
MEANS, DEVIATION = np.array([-0.49, 0.49]), 0.1  # their variance is 0.5²


def velocity(x: np.ndarray, t: float) -> np.ndarray:
  """Returns dx/dt of the mixture's probability-flow ODE at `x` [N]."""
  c, s = np.cos(t), np.sin(t)
  variance = (c * DEVIATION) ** 2 + (s * SIGMA_D) ** 2
  gap = x[:, None] - c * MEANS
  log = -(gap**2) / (2 * variance)
  share = np.exp(log - log.max(1, keepdims=True))
  share /= share.sum(1, keepdims=True)
  x0 = MEANS + c * DEVIATION**2 / variance * gap
  z = s * SIGMA_D**2 / variance * gap
  return (share * (c * z - s * x0)).sum(1)


def follow(x: np.ndarray, times: np.ndarray) -> np.ndarray:
  """Returns paths [T, N] from `x` [N] along times [T], by Heun's steps."""
  path = [x]
  for t, u in zip(times[:-1], times[1:], strict=True):
    v = velocity(x, t)
    x = x + (u - t) * (v + velocity(x + (u - t) * v, u)) / 2
    path.append(x)
  return np.stack(path)


def arrow(axes, start, end, color, bend=0.0, width=1.8) -> None:
  """Draws an arrow, bent by a part of its length."""
  style = patches.FancyArrowPatch(
    start,
    end,
    connectionstyle=f"arc3,rad={bend}",
    arrowstyle="-|>",
    mutation_scale=13,
    color=color,
    linewidth=width,
    shrinkA=0,
    shrinkB=0,
  )
  axes.add_patch(style)


def draw_circle(axes) -> None:
  """Draws the noisy sample of one image and one noise at the time t."""
  t = 0.9
  point = np.array([np.cos(t), np.sin(t)])
  tangent = np.array([-np.sin(t), np.cos(t)])
  angle = np.linspace(0, np.pi / 2, 100)
  axes.plot(np.cos(angle), np.sin(angle), color=GREY, linewidth=1.5)
  axes.plot([0, point[0]], [0, point[1]], color=GREY, linewidth=1)
  small = angle[angle <= t]
  axes.plot(0.25 * np.cos(small), 0.25 * np.sin(small), color=GREY, linewidth=1)
  axes.text(0.26, 0.12, "$t$", color=GREY, fontsize=14)
  arrow(axes, (0, 0), (1.12, 0), GREY, width=1)
  arrow(axes, (0, 0), (0, 1.12), GREY, width=1)
  arrow(axes, point, point + 0.42 * tangent, BLUE)
  axes.text(0.35, 1.03, "velocity (diffusion model)", color=BLUE)
  inside = 0.93
  arrow(axes, inside * point, (inside, 0.02), ORANGE, bend=-0.24)
  axes.text(0.36, 0.29, "one jump\n(consistency\nmodel)", color=ORANGE)
  axes.plot(*point, "o", color=GREEN, markersize=8)
  axes.text(
    point[0] + 0.05,
    point[1] + 0.05,
    r"$x_t = \cos t\;x_0 + \sin t\;z$",
    color=GREEN,
    fontsize=12,
  )
  axes.text(1.0, -0.13, "image $x_0$, $t=0$", color=GREY, ha="center")
  axes.text(-0.04, 1.2, "noise $z$, $t=π/2$", color=GREY)
  axes.set(xlim=(-0.1, 1.65), ylim=(-0.22, 1.32), aspect="equal")
  axes.axis("off")


def draw_paths(axes) -> None:
  """Draws exact paths from noise to data, and jumps to the end of one."""
  times = np.linspace(np.pi / 2 - 1e-3, 0, 200)
  # Equally likely starts: quantiles of the noise.
  starts = SIGMA_D * np.sort(np.random.default_rng(0).normal(size=4000))
  starts = starts[100::317]
  paths = follow(starts, times)
  axes.plot(times, paths, color=GREY, linewidth=0.9, alpha=0.7)
  shown = 7
  path = paths[:, shown]
  axes.plot(times, path, color=BLUE, linewidth=1.8)
  axes.plot(times[::20], path[::20], "o", color=BLUE, markersize=4)
  end = (0.0, path[-1])
  for index, bend in ((0, -0.28), (70, -0.22), (130, -0.2)):
    arrow(axes, (times[index], path[index]), end, ORANGE, bend=bend)
  axes.text(0.62, 1.13, "teacher: many small steps", color=BLUE, ha="center")
  axes.text(
    0.62, 1.28, "student: one jump from anywhere", color=ORANGE, ha="center"
  )
  axes.text(1.57, -1.2, "noise", color=GREY, ha="center")
  axes.text(0, -1.2, "data", color=GREY, ha="center")
  axes.text(0.785, -1.2, "time $t$", color=GREY, ha="center")
  axes.set(xlim=(1.66, -0.12), ylim=(-1.28, 1.42))
  axes.axis("off")


def main(path: pathlib.Path) -> None:
  matplotlib.use("svg")
  # The same bytes in every run, and text as outlines: no font is needed.
  plt.rcParams.update({"svg.hashsalt": "circle", "font.size": 10.5})
  figure, (left, right) = plt.subplots(1, 2, figsize=(9.6, 4.2))
  draw_circle(left)
  draw_paths(right)
  figure.tight_layout()
  figure.savefig(path, transparent=True, metadata={"Date": None})
  plt.close(figure)


if __name__ == "__main__":
  if len(sys.argv) != 2:
    sys.exit(__doc__)
  main(pathlib.Path(sys.argv[1]))
