"""Small versions of the paper's experiments: digits and MNIST, three seeds.

    ./launch/reproduce.sh          # runs all, writes docs/reproduction.md again
    scm-jax sweep --config=configs/miniature.py --workdir=runs/miniature

Arguments of a single run: `run=teacher|sct|scd`, `data=digits|mnist`, `size=N`
channels, and `tiny` for a check of the code path in seconds. The numbers are
our choice; the paper has no runs of this size.
"""

from configs import common, digits, mnist
from scm_jax.configuration import parse_arg
from scm_jax.objectives import OBJECTIVES
from scm_jax.sweeping.points import Point, seeds

SIZES = (8, 16, 24)  # 0.02 to 0.18 million parameters
MIDDLE = 16  # the size at which single choices are left out
SEEDS = 3
# Steps of a student, and of a teacher's solver (63, 7, 3 and 1 evaluations).
STEPS = {"steps": (1, 2, 4), "teacher_steps": (32, 4, 2, 1)}
GUIDANCE = (1.0, 1.15, 1.5)

# Fields in which each run differs from the sCD student of the same size.
CHOICES = {
  "no_tangent_normalization": {"objective.tangent_norm": "none"},
  "no_adaptive_weighting": {"objective.adaptive_weighting": False},
  "no_warmup": {"objective.warmup_steps": 0},
  "discrete_64": {
    "objective.derivative": "discrete",
    "objective.discrete_steps": 64,
  },
  "discrete_1024": {
    "objective.derivative": "discrete",
    "objective.discrete_steps": 1024,
  },
}


def get_config(arg: str = ""):
  """Returns the config of one run for the arguments listed above."""
  choice = parse_arg(
    arg,
    run=tuple(OBJECTIVES),
    data=("digits", "mnist"),
    size=MIDDLE,
    tiny=False,
  )
  datasets = {"digits": digits, "mnist": mnist}
  config = datasets[choice.data].get_config(f"run={choice.run}")
  config.batch_size = 32
  # MNIST's images have sixteen times as many pixels.
  steps = {"digits": (2000, 1500), "mnist": (1000, 700)}[choice.data]
  config.total_steps = steps[choice.run != "teacher"]
  config.checkpoint_every = 1000
  config.network.channels = choice.size
  config.network.channels_per_head = 4  # divides all sizes
  config.objective.P_mean = -0.8 if choice.run == "teacher" else -1.0
  config.objective.P_std = 1.4
  config.snapshot_at, config.guide, config.objective.guidance = (), "", "none"
  common.fit_to_objective(config)
  if choice.tiny:
    common.shrink(config)
  return config


def sweep():
  """Returns all runs: digits at every size, single choices left out, MNIST."""
  points = [p for size in SIZES for p in _family("digits", size, STEPS)]
  guided = tuple({**STEPS, "guidance": scale} for scale in GUIDANCE)
  middle = {
    "arg": _arg("scd", "digits", MIDDLE),
    "teacher": f"teacher_{MIDDLE}",
  }
  points += [
    Point(f"scd_{MIDDLE}_{name}", overrides, sampling=(STEPS,), **middle)
    for name, overrides in CHOICES.items()
  ]
  sampled = {"objective.guidance": "sampled"}
  points.append(
    Point(f"scd_{MIDDLE}_guidance", sampled, sampling=guided, **middle)
  )
  fewer = {**STEPS, "num": 1000}
  return [
    *seeds(points, SEEDS),
    *seeds(_family("mnist", SIZES[0], fewer), SEEDS),
  ]


def _family(data: str, size: int, sampling: dict) -> list[Point]:
  """Returns a teacher and its two students."""
  name = f"{size}" if data == "digits" else data
  teacher = f"teacher_{name}"
  return [
    Point(
      f"{run}_{name}",
      arg=_arg(run, data, size),
      teacher="" if run == "teacher" else teacher,
      sampling=(sampling,),
    )
    for run in ("teacher", "sct", "scd")
  ]


def _arg(run: str, data: str, size: int) -> str:
  return f"run={run},data={data},size={size}"
