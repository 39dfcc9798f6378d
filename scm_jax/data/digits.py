"""The TFDS dataset `scm_digits`: scikit-learn's copy of the UCI digits."""

import numpy as np

from scm_jax.data import bundled


class ScmDigits(bundled.BundledImages):
  """1,797 handwritten digits, 8x8x1, with 17 grey levels spread over 0..255."""

  name = "scm_digits"
  SIZE = 8
  NUM_CLASSES = 10
  HOMEPAGE = (
    "https://archive.ics.uci.edu/dataset/80/"
    "optical+recognition+of+handwritten+digits"
  )
  DESCRIPTION = (
    "The test set of the UCI Optical Recognition of Handwritten Digits data, "
    "as shipped by scikit-learn: 1,797 images of 8x8 pixels from 13 writers. "
    "A pixel counts the inked cells v = 0..16 of a 4x4 block of the scan and "
    "is stored as round(255 v / 16)."
  )
  CITATION = """\
@misc{alpaydin1998digits,
  author = {Alpaydin, E. and Kaynak, C.},
  title = {Optical Recognition of Handwritten Digits},
  year = {1998},
  howpublished = {UCI Machine Learning Repository},
  doi = {10.24432/C50P49},
}
"""

  def load_arrays(self) -> tuple[np.ndarray, np.ndarray]:
    from sklearn import datasets  # only a first build pays this import

    digits = datasets.load_digits()
    return np.rint(digits.images * 255 / 16).astype(np.uint8), digits.target
