"""`scm-jax evaluate`: scores workdirs and writes a report."""

import argparse

from scm_jax.cli import console
from scm_jax.errors import ConfigError

EXAMPLE = """\
scm-jax evaluate --workdir=runs/digits/scd --steps=1,2
scm-jax evaluate --out=runs/digits \\
    --workdir=runs/digits/teacher,runs/digits/scd,runs/digits/sct"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
  parser.add_argument(
    "--workdir",
    metavar="DIR,DIR,...",
    required=True,
    help="trained runs, shown in this order",
  )
  parser.add_argument(
    "--steps", metavar="N,...", default="1,2", help="of students; default 1,2"
  )
  parser.add_argument(
    "--teacher-steps",
    metavar="N,...",
    default="32,1",
    help="of teachers' solvers; default 32,1 (63 and 1 evaluations)",
  )
  parser.add_argument(
    "--num",
    type=int,
    default=0,
    metavar="N",
    help="images for each run; default as many as the reference has",
  )
  parser.add_argument("--seed", type=int, default=0, metavar="N")
  parser.add_argument("--guidance", type=float, default=1.0, metavar="S")
  parser.add_argument(
    "--ema",
    type=float,
    default=0.0,
    metavar="SIGMA_REL",
    help="weight average, as for sample; default each config's first",
  )
  parser.add_argument(
    "--reference",
    metavar="NAME[:SPLIT]",
    default="",
    help="TFDS dataset to compare with; default the training data",
  )
  parser.add_argument(
    "--features",
    metavar="NAME,...",
    default="classifier,pixels",
    help="feature spaces: classifier (trained on the data), pixels",
  )
  parser.add_argument(
    "--out",
    metavar="DIR",
    help="where report.json and report.png go; default the first workdir",
  )


def run(args: argparse.Namespace, config_argv: list[str]) -> int:
  """Prints the table of scores and where the report is."""
  workdirs = tuple(filter(None, args.workdir.split(",")))
  if not workdirs:
    raise ConfigError("--workdir names no folder")
  steps = _numbers("--steps", args.steps)
  teacher_steps = _numbers("--teacher-steps", args.teacher_steps)
  if args.num < 0:
    raise ConfigError(f"--num is {args.num}; it must be positive")
  console.start()

  from etils import epath

  from scm_jax import evaluation
  from scm_jax.metrics import report

  request = evaluation.Request(
    workdirs=workdirs,
    steps=steps,
    teacher_steps=teacher_steps,
    num=args.num,
    seed=args.seed,
    guidance=args.guidance,
    sigma_rel=args.ema,
    reference=args.reference,
    features=tuple(filter(None, args.features.split(","))),
  )
  out = epath.Path(args.out or workdirs[0])
  result = evaluation.evaluate(request, out)
  print(report.format_table(result))
  print(f"report: {out / 'report.json'} and {out / 'report.png'}")
  return 0


def _numbers(flag: str, text: str) -> tuple[int, ...]:
  try:
    numbers = tuple(int(word) for word in text.split(","))
  except ValueError:
    numbers = ()
  if not numbers or min(numbers) < 1:
    raise ConfigError(f"{flag}={text}: give positive whole numbers, as 1,2")
  return numbers
