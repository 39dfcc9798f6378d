"""TFDS datasets cut from the two photographs that scikit-learn ships.

With these test data the configs of CIFAR-10 and ImageNet run anywhere, in
seconds, without a download.
"""

import numpy as np
import tensorflow_datasets as tfds

from scm_jax import codec
from scm_jax.data import bundled

WINDOW, STRIDE, STRIP = 64, 16, 128  # pixels
FACTOR = 8  # side of the block of pixels that a latent stands for

HOMEPAGE = (
  "https://scikit-learn.org/stable/datasets/loading_other_datasets.html"
)
SCENES = (
  "1,702 windows of 64x64 pixels, 16 apart, of scikit-learn's photographs "
  "china.jpg and flower.jpg. The label is the photograph (0 to 4, 5 to 9) and "
  "the vertical strip of 128 pixels that holds the window's centre."
)
CITATION = """\
@misc{sklearnsampleimages,
  title = {Sample images of scikit-learn: china.jpg (photograph by
    danielbuechele, flickr.com/photos/danielbuechele/6061409035) and flower.jpg
    (by vultilion, flickr.com/photos/vultilion/6056698931), CC BY 2.0},
}
"""


def load_windows() -> tuple[np.ndarray, np.ndarray]:
  """Returns all windows, uint8 [1702, 64, 64, 3], and labels, int [1702]."""
  from sklearn import datasets  # only a first build pays this import

  windows, labels = [], []
  for number, photo in enumerate(datasets.load_sample_images().images):
    height, width, _ = photo.shape
    for top in range(0, height - WINDOW + 1, STRIDE):
      for left in range(0, width - WINDOW + 1, STRIDE):
        windows.append(photo[top : top + WINDOW, left : left + WINDOW])
        labels.append(5 * number + (left + WINDOW // 2) // STRIP)
  return np.stack(windows), np.array(labels)


def blocks(windows: np.ndarray, side: int) -> np.ndarray:
  """Splits [N, 64, 64, 3] into [N, side, side, pixels of a block, 3]."""
  width = WINDOW // side
  split = windows.reshape(len(windows), side, width, side, width, 3)
  split = split.transpose(0, 1, 3, 2, 4, 5)
  return split.reshape(len(windows), side, side, width * width, 3)


def to_latents(windows: np.ndarray) -> np.ndarray:
  """Computes latents by a formula, in place of an autoencoder's encoder.

  The four channels hold the mean colour of a block, by the inverse of the
  codec's preview, and the contrast of the block, in the direction that the
  preview ignores. The standard deviations grow with the contrast, because an
  encoder is least certain about detail.

  Args:
    windows: images, uint8 [N, 64, 64, 3].

  Returns:
    Means and standard deviations, float16 [N, 8, 8, 4 + 4].
  """
  cells = blocks(windows / 127.5 - 1.0, WINDOW // FACTOR)
  colour, contrast = cells.mean(axis=3), cells.mean(axis=4).std(axis=3)
  matrix = codec.SCALING_FACTOR * np.asarray(codec.PREVIEW)  # [4, 3]
  unseen = np.linalg.svd(matrix)[0][:, 3]
  unseen = unseen * np.sign(unseen[0])  # the sign of a singular vector is free
  mean = colour @ np.linalg.pinv(matrix) + contrast[..., None] * 10 * unseen
  std = np.broadcast_to(0.05 + contrast[..., None], mean.shape)
  return np.concatenate([mean, std], axis=-1).astype(np.float16)


class ScmPatches(bundled.BundledImages):
  """1,702 colour images, 64x64, 32x32 or 16x16, of ten classes."""

  name = "scm_patches"
  BUILDER_CONFIGS = [
    tfds.core.BuilderConfig(name=f"{side}x{side}") for side in (64, 32, 16)
  ]
  CHANNELS = 3
  NUM_CLASSES = 10
  DESCRIPTION = SCENES
  CITATION = CITATION
  HOMEPAGE = HOMEPAGE

  def side(self) -> int:
    return int(self.builder_config.name.partition("x")[0])

  def load_arrays(self) -> tuple[np.ndarray, np.ndarray]:
    windows, labels = load_windows()
    averages = blocks(windows, self.side()).mean(axis=3)
    return np.rint(averages).astype(np.uint8), labels


class ScmPatchLatents(bundled.BundledArrays):
  """1,702 latents, 8x8x4, as means and standard deviations."""

  name = "scm_patch_latents"
  FEATURE = "latent"
  NUM_CLASSES = 10
  DESCRIPTION = SCENES + (
    " A window is stored as 8x8 latents of four channels, means and then "
    "standard deviations, computed by a fixed formula from its colours and "
    "contrast."
  )
  CITATION = CITATION
  HOMEPAGE = HOMEPAGE

  def load_arrays(self) -> tuple[np.ndarray, np.ndarray]:
    windows, labels = load_windows()
    return to_latents(windows), labels

  def feature(self) -> tfds.features.Tensor:
    side = WINDOW // FACTOR
    # As bytes: TFDS would otherwise widen float16 to float32 on disk.
    return tfds.features.Tensor(
      shape=(side, side, 8), dtype=np.float16, encoding="bytes"
    )
