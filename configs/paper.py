"""Shared settings of the configs of the paper's runs; not a config.

Section, table and equation numbers are those of arXiv 2410.11081 (sCM) unless
another paper is named: EDM is arXiv 2206.00364, EDM2 is arXiv 2312.02696.
"Implied" marks settings that G.2 does not print, because "other training
settings are the same" as the teacher's. docs/configs.md compares these values
with Tables 4 and 5, line by line.
"""

import dataclasses

from configs import common
from scm_jax.defaults import get_defaults
from scm_jax.networks import presets
from scm_jax.objectives import OBJECTIVES

RUNS = tuple(OBJECTIVES)
PUBLISHED = ("teacher", "sct", "scd")  # those whose settings the paper has
EASY = ("ect", "tcm")  # those with settings of their own for ImageNet 64
HARDWARE = ("gpu", "tpu")  # values of the argument `on`


@dataclasses.dataclass(frozen=True)
class Column:
  """The settings of one size, a column of Table 4 or 5.

  Attributes:
    teacher_steps: iterations of the teacher.
    learning_rate: the teacher's alpha_ref; a student's is a hundredth of it.
    dropout: the teacher's dropout, at all sides.
    sct_dropout: the dropout of an sCT student, at sides of at most 16.
    scd_dropout: the dropout of an sCD student, at sides of at most 16.
    teacher_ema: sigma_rel of the teacher's EMA, which samples are drawn from
      and students start from.
  """

  teacher_steps: int
  learning_rate: float
  dropout: float
  sct_dropout: float
  scd_dropout: float
  teacher_ema: float


# Means and deviations of latents, and the range of the encoded images.
LATENTS = {
  "paper": (  # Section G.1
    (1.56, -0.695, 0.483, 0.729),
    (5.27, 5.91, 4.21, 4.31),
    (-1.0, 1.0),
  ),
  "edm2": (  # EDM2's code
    (5.81, 3.25, 0.12, -2.15),
    (4.17, 4.62, 3.71, 3.28),
    (0.0, 1.0),
  ),
}


def start(run: str, family: str = "unet"):
  """Returns the defaults with the settings of Section G for all runs."""
  config = get_defaults(run, family)
  config.sigma_d = 0.5  # Section 3
  config.log_every = 100  # ours
  # EDM2's for teachers (Section 4.2); for students see networks/weighting.py.
  config.network.weighting = "fourier" if run == "teacher" else "positional"
  if run in PUBLISHED:
    config.objective.tangent_c = 0.1  # Section 4.2
    config.objective.warmup_steps = 10_000  # H, Section 4.2
  config.sample.sigma_max = 80.0  # G.2
  return config


def imagenet(run: str, size: str, column: Column, on: str):
  """Returns the settings of both resolutions: EDM2's with the paper's changes.

  Args:
    run: the name of the objective, a key of `OBJECTIVES`.
    size: the name of the size.
    column: the settings of that size.
    on: the hardware, "gpu" or "tpu".
  """
  config = start(run)
  config.batch_size = 2048  # Tables 4 and 5
  config.ema = (0.05, 0.10)  # 0.05: G.2; the second: EDM2's code
  config.snapshot_every = 4096  # 8 Mi images: EDM2's code
  config.checkpoint_every = 4096  # our choice, as is `sample_every`
  config.sample_every = 4096
  config.data.size = 64
  config.data.num_classes = 1000
  set_precision(config, on)
  config.network.update(presets.EDM2[size])
  # These settings work for 8 devices and for hundreds; docs/planning.md has the
  # memory of each size. A host has 8 GPUs, so shards are gathered inside it.
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
    config.network.dropout_resolution = 64  # at all sides, as in EDM2
    config.sample.solver, config.sample.solver_steps = "heun", 32  # G.2
    if column.teacher_ema < 0.02:
      # The coefficients of its snapshots have absolute values that add up to
      # 78 and more, which would amplify float16's rounding (docs/configs.md).
      config.snapshot_dtype = "float32"
  else:
    config.teacher_ema = column.teacher_ema
    if OBJECTIVES[run].teacher_kind == "consistency":  # a first stage's
      config.teacher_ema = config.ema[0]
    # A hundredth (G.2), rounded: 0.007 * 0.01 is 7.000000000000001e-05.
    optimizer.learning_rate = round(column.learning_rate * 0.01, 10)
    # Runs that the paper does not have begin from the settings of sCD, or of
    # sCT if nothing but data teaches them.
    distils = common.asks_teacher(run)
    dropout = column.scd_dropout if distils else column.sct_dropout
    config.network.dropout = dropout
    config.network.dropout_resolution = 16  # G.2
  return config


def set_latents(config, name: str, constants: str = "paper") -> None:
  """Sets a dataset of Stable Diffusion's latents, scaled by named constants."""
  data = config.data
  data.kind, data.name, data.channels = "latents", name, 4
  with data.ignore_type():  # a number for each channel
    data.mean, data.std, data.image_range = LATENTS[constants]


def weigh_easily(config) -> None:
  """Sets the noise levels and weights of ECT and TCM on ImageNet 64.

  The sources are the branch `imgnet` of github.com/locuslab/ect and the README
  of github.com/NVlabs/TCM. Both weigh the pseudo-Huber distance of samples by
  `(sigma^2 + sigma_d^2) / (sigma sigma_d)^2`, which is `1 / sin t` for `F`.
  """
  config.objective.tangent_norm = "pseudo_huber"
  config.objective.tangent_c = 0.06
  config.objective.prior_weight = "inverse_sine"
  if config.run == "tcm":
    config.objective.easy_base = 256.0  # as short as ECT's last steps
  else:
    config.sample.t_mid = 1.254  # the noise level 1.526
    config.objective.P_mean, config.objective.P_std = -0.8, 1.6


def tune_easily(config, size: str, column: Column) -> None:
  """Sets what the authors of ECT and TCM have for ImageNet 64, by its size.

  See `weigh_easily` for the sources.
  """
  weigh_easily(config)
  optimizer, second = config.optimizer, config.run == "tcm"
  rate = column.learning_rate / 10
  optimizer.learning_rate = round(rate / 2 if second else rate, 10)
  optimizer.decay_steps = 8000 if second else 2000
  optimizer.rampup_images = 0
  config.network.dropout = 0.4 if size == "s" else 0.5
  if second:
    config.batch_size = 1024


def set_precision(config, on: str) -> None:
  """Sets types that keep the tangent accurate (docs/configs.md, Precision)."""
  if on == "gpu":
    config.network.dtype = "float16"  # Section 5.1
    return
  # TPUs have no float16. Three bfloat16 products are more precise than it. sCT
  # does not need them: its tangent is large, and mostly noise of the data.
  config.network.dtype = "bfloat16"
  if common.asks_teacher(config.run) and OBJECTIVES[config.run].tangent:
    config.objective.tangent_dtype = "float32"
    config.objective.tangent_precision = "high"


def shrink(config) -> None:
  """Shrinks a run to eight small steps of the same code path."""
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
  network.channels_per_head = 8
  if network.family == "dit":
    network.depth = 2
  else:
    network.channel_mult = (1, 2)
    network.num_blocks = 1
    network.attn_resolutions = (config.data.size // 2,)

  if common.warms_up(config):
    config.objective.warmup_steps = 4
  common.spread_schedules(config)
  if config.optimizer.decay_steps:
    config.optimizer.decay_steps = 4
  if config.optimizer.rampup_images:
    config.optimizer.rampup_images = 16
  config.sample.num = 10
  config.sample.solver_steps = 4
