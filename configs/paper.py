"""What the configs of the paper's runs have in common; no config of its own.

Section, table and equation numbers are those of arXiv 2410.11081 (sCM) unless
another is named: EDM is arXiv 2206.00364, EDM2 is arXiv 2312.02696. "Implied"
marks what G.2 leaves to "other training settings are the same": the teacher's.
Tables 4 and 5 stand line by line beside these values in docs/configs.md.
"""

import dataclasses

from scm_jax.defaults import get_defaults
from scm_jax.networks import presets
from scm_jax.objectives import OBJECTIVES

RUNS = tuple(OBJECTIVES)
HARDWARE = ("gpu", "tpu")  # of the argument `on`


@dataclasses.dataclass(frozen=True)
class Column:
  """One size, as a column of Table 4 or 5.

  Attributes:
    teacher_steps: iterations of the teacher.
    learning_rate: the teacher's alpha_ref; a student's is a hundredth of it.
    dropout: of the teacher, everywhere.
    sct_dropout: of a student, where the side is at most 16.
    scd_dropout: likewise.
    teacher_ema: sigma_rel of the teacher's average that is sampled from, and
      that students start from.
  """

  teacher_steps: int
  learning_rate: float
  dropout: float
  sct_dropout: float
  scd_dropout: float
  teacher_ema: float


def start(run: str):
  """What Section G says of all runs, beside the defaults."""
  config = get_defaults()
  config.run = run
  config.sigma_d = 0.5  # Section 3
  config.log_every = 100  # ours
  # EDM2's for teachers (Section 4.2); students: see networks/weighting.py.
  config.network.weighting = "fourier" if run == "teacher" else "positional"
  config.objective.tangent_c = 0.1  # Section 4.2
  config.objective.warmup_steps = 10_000  # H, Section 4.2
  config.sample.t_mid = 1.1  # G.2
  config.sample.sigma_max = 80.0  # G.2
  return config


def imagenet(run: str, size: str, column: Column, on: str):
  """What both resolutions share: EDM2's training with the paper's changes."""
  config = start(run)
  config.batch_size = 2048  # Tables 4 and 5
  config.ema = (0.05, 0.10)  # 0.05: G.2; the second: EDM2's code
  config.snapshot_every = 4096  # 8 Mi images: EDM2's code
  config.checkpoint_every = 4096  # ours, as is how often samples are drawn
  config.sample_every = 4096
  config.data.size = 64
  config.data.num_classes = 1000
  _set_precision(config, on)
  config.network.update(presets.EDM2[size])
  # One way to run on 8 devices or hundreds of them; docs/planning.md has what
  # each size takes. A host has 8 GPUs, so that shards are gathered inside it.
  config.mesh.fsdp = 1 if size == "s" else 8
  config.images_per_pass = 64

  optimizer = config.optimizer
  optimizer.name = "adam"
  optimizer.b1, optimizer.b2 = 0.9, 0.99  # Tables 4 and 5
  optimizer.eps = 1e-11  # Tables 4 and 5
  optimizer.rampup_images = 10_000_000  # EDM2's code; implied

  if run == "teacher":
    config.total_steps = column.teacher_steps
    optimizer.learning_rate = column.learning_rate
    config.network.dropout = column.dropout
    config.network.dropout_resolution = 64  # everywhere, as EDM2
    config.sample.solver, config.sample.solver_steps = "heun", 32  # G.2
    if column.teacher_ema < 0.02:
      # Made of snapshots whose coefficients add up, in absolute value, to 80
      # and more, the average would show their rounding (docs/configs.md).
      config.snapshot_dtype = "float32"
  else:
    config.teacher_ema = column.teacher_ema
    # A hundredth (G.2), rounded: 0.007 * 0.01 is 7.000000000000001e-05.
    optimizer.learning_rate = round(column.learning_rate * 0.01, 10)
    config.network.dropout = getattr(column, f"{run}_dropout")
    config.network.dropout_resolution = 16  # G.2
  return config


def _set_precision(config, on: str) -> None:
  """Keeps the digits of the tangent, as docs/configs.md measures them."""
  if on == "gpu":
    config.network.dtype = "float16"  # Section 5.1
    return
  # TPUs have no float16. Three bfloat16 products have its digits and more. sCT
  # does without: its tangent is large, and mostly the data's own noise.
  config.network.dtype = "bfloat16"
  if config.run == "scd":
    config.objective.tangent_dtype = "float32"
    config.objective.tangent_precision = "high"


def shrink(config) -> None:
  """The same code path in eight small steps; the values are ours."""
  config.batch_size = 8
  config.total_steps = 8
  config.mesh.fsdp = 1
  config.images_per_pass = 0
  config.log_every = 2
  config.checkpoint_every = 4
  config.sample_every = 0
  if config.snapshot_every:
    config.snapshot_every = 4
  config.data.num_classes = min(config.data.num_classes, 10)

  network = config.network
  network.channels = 8
  network.channel_mult = (1, 2)
  network.num_blocks = 1
  network.channels_per_head = 8
  network.attn_resolutions = (config.data.size // 2,)

  if config.run != "teacher":
    config.objective.warmup_steps = 4
  if config.optimizer.decay_steps:
    config.optimizer.decay_steps = 4
  if config.optimizer.rampup_images:
    config.optimizer.rampup_images = 16
  config.sample.num = 10
  config.sample.solver_steps = 4
