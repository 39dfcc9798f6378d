"""What the small built-in datasets have in common; no config of its own."""

from scm_jax.configuration import parse_arg
from scm_jax.defaults import get_defaults
from scm_jax.objectives import OBJECTIVES


def small(arg: str):
  """A config for greyscale digits, and whether `tiny` was asked for."""
  choice = parse_arg(arg, run=tuple(OBJECTIVES), tiny=False)
  config = get_defaults()
  config.run = choice.run
  config.ema = (0.10, 0.05, 0.20)  # wider than the paper's: runs are short
  config.optimizer.decay_steps = 2000
  config.checkpoint_every = 500
  config.log_every = 100
  config.data.channels = 1
  config.data.num_classes = 10
  config.network.channels_per_head = 32
  config.network.channel_mult_emb = 4
  config.optimizer.rampup_images = 10_000
  if choice.run == "teacher":
    config.network.weighting = "fourier"
    config.optimizer.learning_rate = 1e-2
    config.optimizer.cooldown = 0.5
    config.optimizer.eps = 1e-8
    config.objective.label_dropout = 0.1
  else:
    config.optimizer.learning_rate = 1e-3
    config.optimizer.cooldown = 2 / 3
    config.objective.warmup_steps = 500
  return config, choice.tiny


def shrink(config):
  """The same code path in seconds on one core."""
  config.batch_size = 8
  config.total_steps = 8
  config.log_every = 2
  config.checkpoint_every = 4
  config.optimizer.cooldown = 0.0  # so that a longer run only adds steps
  config.network.channels = 8
  config.network.channels_per_head = 8
  config.sample.num = 10
  config.sample.solver_steps = 4
