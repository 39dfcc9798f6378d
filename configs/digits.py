"""UCI digits (1,797 images, 8x8, 10 classes): the main job, on two CPU cores.

    ./launch/local.sh                      # teacher, sCD, sCT and the report

or one run at a time:

    scm-jax train --config=configs/digits.py:run=teacher --workdir=runs/teacher
    scm-jax train --config=configs/digits.py:run=scd --workdir=runs/scd \
        --config.teacher=runs/teacher

Arguments: `run=teacher|sct|scd`, and `tiny` for a check of the code path in
seconds. The numbers are this project's own, found by measurement (see
BUILD_NOTES.md); the paper has no run of this size.
"""

from scm_jax.configuration import parse_arg
from scm_jax.defaults import get_defaults

RUNS = ("teacher", "sct", "scd")


def get_config(arg: str = ""):
  """The config of one run; see the module's docstring."""
  choice = parse_arg(arg, run=RUNS, tiny=False)
  config = get_defaults()
  config.run = choice.run
  config.batch_size = 128
  config.total_steps = 1500 if choice.run == "teacher" else 1000
  config.checkpoint_every = 250
  config.log_every = 50

  config.data.name = "scm_digits"
  config.data.size = 8
  config.data.channels = 1
  config.data.num_classes = 10
  config.data.mean = -0.39  # measured over the dataset
  config.data.std = 0.75

  config.network.channels = 32
  config.network.channel_mult = (1, 2)
  config.network.num_blocks = 1
  config.network.attn_resolutions = ()
  config.network.channels_per_head = 32

  config.objective.P_mean = -0.8
  config.objective.P_std = 1.4
  config.optimizer.rampup_images = 10_000

  if choice.run == "teacher":
    config.optimizer.learning_rate = 1e-2
    config.optimizer.decay_steps = 500
    config.optimizer.eps = 1e-8
    config.objective.label_dropout = 0.1
  else:
    config.optimizer.learning_rate = 1e-3
    config.optimizer.decay_steps = 500
    config.objective.warmup_steps = 200

  if choice.tiny:
    shrink(config)
  return config


def shrink(config):
  """The same code path in seconds on one core."""
  config.batch_size = 8
  config.total_steps = 8
  config.log_every = 2
  config.checkpoint_every = 4
  config.network.channels = 8
  config.network.channels_per_head = 8
  config.sample.num = 10
  config.sample.solver_steps = 4
