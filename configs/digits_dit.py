"""The digits of configs/digits.py, by a small diffusion transformer.

    scm-jax train --config=configs/digits_dit.py:run=teacher \
        --workdir=runs/teacher
    scm-jax train --config=configs/digits_dit.py:run=scd --workdir=runs/scd \
        --config.teacher=runs/teacher

Arguments and all other settings are those of configs/digits.py. Its network
of 0.72 M parameters takes about as long as the U-Net there (BUILD_NOTES.md).
"""

from configs import common, digits
from scm_jax.configuration import parse_arg
from scm_jax.defaults import get_defaults
from scm_jax.objectives import OBJECTIVES


def get_config(arg: str = ""):
  """Returns the config of one run for the arguments of configs/digits.py."""
  choice = parse_arg(arg, run=tuple(OBJECTIVES), tiny=False)
  config = digits.get_config(arg)
  weighting = config.network.weighting
  config.network = get_defaults(choice.run, "dit").network
  config.network.weighting = weighting
  config.network.update(channels=96, channels_per_head=32, depth=4, patch=2)
  # Weights are free and small, unlike EDM2's, which the same step moves less.
  # sCD diverges at 4e-4; FACM, MeanFlow and iMF are far from the data in one
  # step at 1e-4 (docs/configs.md).
  optimizer = config.optimizer
  optimizer.learning_rate = 1e-4 if choice.run in common.CAREFUL else 1e-3
  if choice.run == "teacher":
    optimizer.learning_rate = 4e-3
  if choice.run == "scd_vsd":
    # With the weight of 1 that suits U-Nets the student leaves the data.
    config.objective.matching_weight = 0.1
  if choice.tiny:
    common.shrink(config)
    config.network.depth = 2
  return config
