"""How often a classifier sees each class: whether a generator forgets one.

The counts of the classes that a classifier finds in the samples are compared
with those that it finds in the real images, so that its own mistakes are in
both.
"""

import numpy as np

from scm_jax.metrics.metric import Column, Metric, Statistic


def class_shares(generated: np.ndarray, real: np.ndarray) -> tuple[float, ...]:
  """Returns the least share of a class, and chi-square over its freedom.

  The first is the smallest ratio of a class's share in the samples to its share
  in the real images: 1 if all classes are as frequent, 0 if one is missing. The
  second is Pearson's statistic of the samples against the shares of the real
  images, divided by its degrees of freedom: 1 on average if each sample has the
  class of a random real image. It grows with the number of samples where the
  shares differ. The arrays are the classes that are found in samples [n] and in
  real images [m]; returns () if fewer than two are found in the latter.
  """
  size = 1 + max(generated.max(), real.max())
  found, known = (np.bincount(x, minlength=size) for x in (generated, real))
  found, known = found[known > 0], known[known > 0]
  if len(known) < 2:
    return ()
  expected = known * (len(generated) / len(real))
  chi_square = np.sum((found - expected) ** 2 / expected)
  freedom = len(known) - 1
  return float(np.min(found / expected)), float(chi_square / freedom)


# The class [n] that a classifier finds in each sample.
FOUND_CLASSES = Statistic(
  name="found_classes",
  output="label",
  arrays=("found_classes",),
  summarize=lambda values, batch: np.asarray(values, np.int32),
  merge=np.concatenate,
  merge_last=True,
)
METRIC = Metric(
  statistic=FOUND_CLASSES,
  compute=lambda generated, reference, options: class_shares(
    generated, reference
  ),
  keys=("least_class", "class_chi_square"),
  columns=(
    Column("least_class", "least class", higher_is_better=True),
    Column("class_chi_square", "χ²/f"),
  ),
)
