"""sFID: the Fréchet distance of spatial features of Inception.

Nash et al. (2021, arXiv:2103.03841): features that are not averaged over the
image tell whether things are in their places. As in ADM's code
(arXiv:2105.05233) they are the first seven channels of the graph's
`mixed_6/conv`, 17 x 17 x 7 = 2,023 numbers.
"""

import dataclasses

from scm_jax.errors import UserError
from scm_jax.metrics.frechet import MOMENTS, Moments, frechet_distance
from scm_jax.metrics.metric import Column, Metric, Options

SPATIAL = dataclasses.replace(
  MOMENTS, name="spatial", output="spatial", prefix="spatial_"
)


def _compute(
  generated: Moments, reference: Moments, options: Options
) -> tuple[float, ...]:
  """Returns the distance; nothing if there are fewer samples than features."""
  sizes = [len(m.mean) for m in (generated, reference)]
  if sizes[0] != sizes[1]:
    raise UserError(
      f"the reference has {sizes[1]} spatial features, and sFID is defined "
      f"with {sizes[0]}"
    )
  counts = [m.n for m in (generated, reference) if m.n is not None]
  few = min(counts, default=0) <= len(generated.mean)
  if counts and few and not options.allow_few:
    return ()
  return (frechet_distance(generated, reference, allow_few=True),)


METRIC = Metric(
  statistic=SPATIAL,
  compute=_compute,
  keys=("sfid",),
  columns=(Column("sfid", "sFID"),),
)
