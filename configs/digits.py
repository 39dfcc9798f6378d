"""UCI digits (1,797 images, 8x8, 10 classes), trained on two CPU cores.

    ./launch/local.sh                   # a teacher, two students and the report

or one run at a time:

    scm-jax train --config=configs/digits.py:run=teacher --workdir=runs/teacher
    scm-jax train --config=configs/digits.py:run=scd --workdir=runs/scd \
        --config.teacher=runs/teacher

Arguments: `run=` any objective, and `tiny` for a check of the code path in
seconds. The numbers were found by measurement (see BUILD_NOTES.md); the paper
has no run of this size.

A student's teacher is guided by its own snapshot of step 500. One that has none
is distilled with --config.guide= --config.objective.guidance_scale=1.15, which
is classifier-free guidance.
"""

from configs import common
from scm_jax.sweeping.points import Point, grid, points, seeds


def get_config(arg: str = ""):
  """Returns the config of one run for the arguments listed above."""
  config, tiny = common.small(arg)
  # The activations of small batches fit into the processor's cache, and a
  # student's run of minutes lacks updates rather than images. The teacher is
  # worse with batches of 16.
  config.batch_size = 32 if config.run == "teacher" else 16
  config.total_steps = 4000 if config.run == "teacher" else 3000

  config.data.name = "scm_digits"
  config.data.size = 8
  config.data.mean = -0.39  # measured over the dataset
  config.data.std = 0.75
  config.sample.batch_size = 300  # six times that are the images to score

  # 0.32 M parameters. XLA's CPU convolutions are slow for many channels and
  # large images; this is the widest network that trains in ten minutes.
  config.network.channels = 32
  config.network.channel_mult = (1, 1)
  config.network.num_blocks = 1
  config.network.attn_resolutions = ()  # the innermost block always attends

  # Students get less noise, as the paper advises (G.2). Here -0.4 was worse in
  # 2 steps, and -0.8 differed by about the noise between seeds.
  config.objective.P_mean = -0.8 if config.run == "teacher" else -1.0
  config.objective.P_std = 1.4
  weak = 4 if tiny else 500  # the step at which a snapshot is made
  if config.run == "teacher":
    config.snapshot_at = (weak,)
  elif common.takes_guidance(config.run):
    # The best of all methods at one budget (docs/reproduction.md).
    config.guide = f"snapshots/{weak}"
    config.objective.guidance = "fixed"
    config.objective.guidance_scale = 1.25
  common.fit_to_objective(config)
  if tiny:
    common.shrink(config)
  return config


def sweep():
  """Returns runs that vary P_mean and c of sCD, one at a time.

  t_mid is a setting of the sampler, so that it needs no further training.
  """
  teacher = Point("teacher", arg="run=teacher")
  students = points(
    [
      *grid({"objective.P_mean": (-1.4, -1.0, -0.6)}),
      *grid({"objective.tangent_c": (0.01, 1.0)}),  # the others have 0.1
    ],
    arg="run=scd",
    teacher=teacher.name,
    sampling=(
      {"steps": 1},
      *({"steps": 2, "t_mid": t_mid} for t_mid in (0.8, 1.1, 1.4)),
    ),
    prefix="scd",
  )
  return seeds([teacher, *students], 3)
