"""Your own images: a folder, or a folder for each class (docs/own_images.md).

    scm-jax prepare --config=configs/images.py --source=photos --out=datasets
    scm-jax train --config=configs/images.py:run=teacher,classes=3 \
        --workdir=runs/teacher --config.data.data_dir=datasets
    scm-jax train --config=configs/images.py:run=scd,classes=3 \
        --workdir=runs/scd --config.data.data_dir=datasets \
        --config.teacher=runs/teacher

Arguments: `run=` any objective, `size=16|32|64` the side of the images in
pixels (default 16), `classes=N` the number of class folders (default 0: labels
are not used), and `tiny` for a check of the code path in seconds. `prepare`
needs the same size and classes. The numbers are our choice. Size 16 takes
minutes on two CPU cores; 32 and 64 are meant for a GPU, and we have not run
them to the end.
"""

from configs import common
from scm_jax.configuration import parse_arg
from scm_jax.objectives import OBJECTIVES

# The last level has 8x8 pixels or fewer, in which the network sees all at once.
NETWORKS = {
  16: {"patch": 2, "channels": 32, "channel_mult": (1, 1)},
  32: {"patch": 2, "channels": 64, "channel_mult": (1, 2)},
  64: {"patch": 2, "channels": 96, "channel_mult": (1, 2, 2)},
}


def get_config(arg: str = ""):
  """Returns the config of one run for the arguments listed above."""
  choice = parse_arg(
    arg, run=tuple(OBJECTIVES), size=tuple(NETWORKS), classes=0, tiny=False
  )
  config, _ = common.small(f"run={choice.run}")
  config.batch_size = 32 if choice.size == 16 else 128
  steps = 4000 if choice.run == "teacher" else 2500
  config.total_steps = steps if choice.size == 16 else 10 * steps
  config.sample_every = config.total_steps // 2

  config.data.name = f"images{choice.size}"
  config.data.size = choice.size
  config.data.channels = 3
  config.data.num_classes = choice.classes
  config.data.mean, config.data.std = 0.0, 0.5  # of images in [-1, 1]

  config.network.update(NETWORKS[choice.size], num_blocks=1)
  config.network.attn_resolutions = ()  # the innermost block always attends

  config.objective.P_mean = -0.8 if choice.run == "teacher" else -1.0
  config.objective.P_std = 1.4
  common.fit_to_objective(config)
  if choice.tiny:
    common.shrink(config)
  return config
