"""Mean and standard deviation of latents, summed as they are written."""

import numpy as np


class Moments:
  """Sums over all positions, for each channel, in float64.

  Attributes:
    positions: how many positions were summed.
  """

  def __init__(self):
    self.positions = 0
    self._sums = np.zeros((2, 1))

  def add(self, stored: np.ndarray) -> None:
    """Adds the means and deviations of one image, [h, w, 2 C]."""
    mean, std = np.split(stored.astype(np.float64), 2, axis=-1)
    squares = mean**2 + std**2  # of a latent that is drawn
    sums = np.stack([mean.sum(axis=(0, 1)), squares.sum(axis=(0, 1))])
    self._sums = self._sums + sums
    self.positions += mean.shape[0] * mean.shape[1]

  def sums(self) -> list[list[float]]:
    """Of latents and of their squares, [2, C]; empty if none was added."""
    return self._sums.tolist() if self.positions else []
