"""Shared settings of the configs of small built-in datasets; not a config."""

from scm_jax.configuration import parse_arg
from scm_jax.defaults import get_defaults
from scm_jax.objectives import OBJECTIVES


def small(arg: str):
  """Returns a config for greyscale digits, and whether it is `tiny`."""
  choice = parse_arg(arg, run=tuple(OBJECTIVES), tiny=False)
  config = get_defaults(choice.run)
  config.ema = (0.10, 0.05, 0.20)  # wider than the paper's, for short runs
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
    if choice.run == "tcm":
      config.optimizer.learning_rate /= 2  # its authors' second stage
      # Steps as short as ECT's last ones. With its authors' shorter ones and
      # small batches, the student leaves the first stage's network at the
      # border, and samples get worse (BUILD_NOTES.md).
      config.objective.easy_base = 256.0
    if warms_up(config):
      config.objective.warmup_steps = 500
  return config, choice.tiny


def warms_up(config) -> bool:
  """Returns whether a run's objective warms a tangent up."""
  options = OBJECTIVES[config.run].options()
  return bool(getattr(options, "warmup_steps", 0))


# What learns from its own derivative, or from a step of it, with nothing that
# holds it: transformers want a tenth of the rate of other runs.
CAREFUL = ("sct", "scd", "scd_vsd", "ms_scd", "ayf", "ect", "tcm")


def asks_teacher(run: str) -> bool:
  """Returns whether every step of a run evaluates a teacher."""
  spec = OBJECTIVES[run]
  return spec.asks_teacher(spec.options())


def takes_guidance(run: str) -> bool:
  """Returns whether a run distils its teacher at a guidance scale."""
  spec = OBJECTIVES[run]
  return asks_teacher(run) and spec.takes_guidance(
    spec.options(guidance="sampled")
  )


def guides_itself(run: str) -> bool:
  """Returns whether a run's network can guide the velocities that it learns."""
  return OBJECTIVES[run].options(guidance="fixed").guides_itself


def fit_to_objective(config):
  """Fits lengths and batches to the run's objective; other fields are set."""
  _count_trajectories(config)
  spread_schedules(config)
  if config.run == "meanflow" and config.data.kind != "latents":
    # Its authors' settings for CIFAR-10; the defaults are those for latents.
    # On digits they halve the distances in one and two steps (BUILD_NOTES.md).
    objective = config.objective
    objective.P_mean, objective.P_std, objective.kappa = -2.0, 2.0, 0.5
    objective.equal_share = 0.25
    objective.error_power, objective.error_floor = 0.75, 1e-3
    config.sample.t_mid = 1.1  # half of its way, where kappa is 0.5


def _count_trajectories(config):
  """Divides what counts images by the states of a trajectory.

  A sample of mid-training's batch is a whole trajectory, at all of whose states
  the network is trained, and whose states are alike: a batch has 8 or more.
  """
  options = OBJECTIVES[config.run].options()
  states = OBJECTIVES[config.run].path_states(options)
  if states == 1:
    return
  config.batch_size = max(8, config.batch_size // states)
  config.images_per_pass = -(-config.images_per_pass // states)
  config.optimizer.rampup_images //= states
  config.ema = tuple(x / states if x >= 1 else x for x in config.ema)
  config.total_steps //= 5  # a fifth of a student's run, as its start


def spread_schedules(config):
  """Spreads an objective's schedules over the run, whatever its length.

  ECT has eight stages, as in its authors' runs with `q` = 2.
  """
  if config.run == "ect":
    config.objective.easy_stage = -(-config.total_steps // 8)
  elif config.run == "alphaflow":
    config.objective.anneal_steps = (0, config.total_steps)


def shrink(config):
  """Shrinks a run so that its code path takes seconds on one core."""
  config.batch_size = 8
  config.total_steps = 8
  config.log_every = 2
  config.checkpoint_every = 4
  config.optimizer.cooldown = 0.0  # so that a longer run only adds steps
  config.network.channels = 8
  config.network.channels_per_head = 8
  config.sample.num = 10
  config.sample.solver_steps = 4
  if warms_up(config):
    config.objective.warmup_steps = 4
  spread_schedules(config)
