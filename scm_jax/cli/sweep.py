"""`scm-jax sweep`: the runs of a config's `sweep()`, and one table of them."""

import argparse
import logging
import os
import pathlib
import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from scm_jax.cli import configs, console
from scm_jax.errors import ConfigError, UserError

if TYPE_CHECKING:
  from scm_jax.sweeping.runs import Run

EXAMPLE = """\
scm-jax sweep --config=configs/digits.py --workdir=runs/sweep --parallel=2
scm-jax sweep --config=configs/digits.py:tiny --workdir=runs/tiny --dry-run
scm-jax sweep --config=configs/digits.py --workdir=/shared/sweep \\
    --launcher=slurm --launch=--gpus-per-node=1 --launch=--time=1:00:00"""
LAUNCHERS = ("local", "slurm", "gcp")


def add_arguments(parser: argparse.ArgumentParser) -> None:
  configs.add_config_argument(parser)
  parser.add_argument(
    "--workdir",
    metavar="DIR",
    required=True,
    help="each run's workdir is DIR/NAME; an earlier sweep is continued",
  )
  parser.add_argument(
    "--launcher",
    choices=LAUNCHERS,
    default="local",
    help="this machine, a job array, or machines for each run; default local",
  )
  parser.add_argument(
    "--parallel",
    type=int,
    default=0,
    metavar="N",
    help="runs at a time, here each with its share of the cores; default 1, "
    "in Slurm all",
  )
  parser.add_argument(
    "--retry", action="store_true", help="try failed runs again"
  )
  parser.add_argument(
    "--only",
    metavar="GLOB",
    default="*",
    help="the points whose names match, and their teachers; default all",
  )
  parser.add_argument(
    "--launch",
    metavar="FLAG",
    action="append",
    default=[],
    help="a flag of launch/slurm.sh or launch/gcp.sh, any number of times",
  )
  parser.add_argument(
    "--evaluate",
    metavar="FLAG",
    action="append",
    default=[],
    help="a flag of scm-jax evaluate, such as --evaluate=--num=500",
  )
  parser.add_argument(
    "--dry-run", action="store_true", help="print the commands and stop"
  )


def run(args: argparse.Namespace, config_argv: list[str]) -> int:
  """Trains, scores, and prints the table; 0 if nothing failed."""
  for flag in (*args.launch, *args.evaluate):
    if not flag.startswith("--"):
      raise ConfigError(f"{flag!r} is no flag: it begins with --")
  if args.parallel < 0:
    raise ConfigError(f"--parallel={args.parallel}: give a positive number")
  if args.launch and args.launcher == "local":
    raise ConfigError("--launch is for --launcher=slurm and gcp")
  if args.parallel and args.launcher == "slurm":
    args.launch.append(f"--array-limit={args.parallel}")
  from etils import epath

  folder = epath.Path(args.workdir)
  remote = "://" in args.workdir
  if remote != (args.launcher == "gcp"):
    raise ConfigError(
      f"--workdir={args.workdir}: --launcher=gcp takes a bucket (gs://...), "
      "the others a folder"
    )
  # Of the sweep itself: logs, reports, the table.
  home = pathlib.Path("runs") / folder.name if remote else folder.resolve()
  home = pathlib.Path(home)
  place = folder if remote else epath.Path(home)
  runs = _runs(config_argv, place, args.only)
  if args.dry_run:
    print("\n".join(_commands(runs, home, args)))
    return 0
  console.start()
  from scm_jax.sweeping import runs as sweep_runs
  from scm_jax.sweeping import training

  with training.alone(home) as lock:
    sweep_runs.check_same(runs)
    return _work(runs, home, lock, args)


def _runs(config_argv: list[str], folder: Any, only: str) -> list["Run"]:
  """The runs of the config's sweep, resolved."""
  from scm_jax.sweeping import points, runs

  target, flags = configs.split_flags(config_argv)
  file, colon, arg = target.partition(":")
  if os.path.exists(file):  # jobs start in other folders
    target = os.path.abspath(file) + colon + arg
  overrides = {}
  for flag, value in flags.items():
    if flag.startswith("--no") or value is None:
      raise ConfigError(f"{flag}: write --config.KEY=VALUE")
    overrides[flag.partition(".")[2]] = value
  checked = points.checked(configs.load_sweep(target))
  checked = points.chosen(checked, only)
  return runs.resolve(checked, target, overrides, folder, configs.parse_config)


def _commands(
  runs: Sequence["Run"], home: pathlib.Path, args: argparse.Namespace
) -> list[str]:
  """What `_work` would run, as it would be typed."""
  from scm_jax.sweeping import launching, scoring, training

  due = training.due(runs)
  if args.launcher == "slurm":
    lines, jobs = [], []
    for level in launching.levels(due):
      file, text, words = launching.array(level, home, args.launch, jobs)
      jobs.append(f"JOB{len(jobs)}")
      lines += [f"# {file}:", *(f"#   {x}" for x in text.splitlines())]
      lines.append(f"{shlex.join(words)}  # job array {jobs[-1]}")
  elif args.launcher == "gcp":
    lines = [shlex.join(launching.gcp(run, args.launch)) for run in due]
  else:
    lines = [shlex.join(["scm-jax", *run.train]) for run in due]
  lines.append("# then, when all have ended:")
  # As if all were finished; what is left out then has been scored before.
  for group, words in scoring.missing(runs, args.evaluate, as_finished=due):
    out = home / "evaluation" / "slot_0"
    words = scoring.arguments(group, words, out)
    lines.append(shlex.join(["scm-jax", *words]))
  return lines


def _work(
  runs: Sequence["Run"], home: pathlib.Path, lock: int, args: argparse.Namespace
) -> int:
  from scm_jax.sweeping import launching, pool, scoring, training

  still = launching.queued(home)
  if still and args.launcher != "slurm":
    raise UserError(f"{len(still)} runs of {home} are in Slurm's queue")
  launching.note_failures(runs, home)
  if args.retry:
    for each in runs:
      each.forgive()
  settings = pool.Settings(
    parallel=args.parallel or 1, environment=_environment(home), inherit=(lock,)
  )
  if args.launcher == "slurm":
    due = [each for each in training.due(runs) if each.name not in still]
    if due or still:
      return _submit(due, still, runs, home, args)
  elif not training.train(
    runs, args.launcher, home / "logs", settings, args.launch
  ):
    raise KeyboardInterrupt
  goes_on, failures = scoring.score(runs, home, settings, args.evaluate)
  if not goes_on:
    raise KeyboardInterrupt
  _write_table(runs, home, args.evaluate)
  failed = training.summary(runs)
  for line in failures:
    logging.warning("scoring failed: %s", line)
  if failed or failures:
    raise UserError(
      f"{len(failed)} of {len(runs)} runs and {len(failures)} evaluations "
      "failed; the same command with --retry tries them again"
    )
  return 0


def _submit(due, still, runs, home, args) -> int:
  """Hands runs to Slurm, and says what is next."""
  from scm_jax.sweeping import launching, training

  if any(run.point.teacher in still for run in due):
    raise UserError(
      f"teachers of {len(due)} runs are in Slurm's queue; run this again when "
      "they are done"
    )
  jobs = launching.submit(due, home, args.launch)
  failed = training.summary(runs)
  said = f"submitted {len(due)} runs as {', '.join(jobs)}; " if jobs else ""
  print(
    f"{said}{len(still)} were in the queue, {len(failed)} failed; run the same "
    "command again to submit what was left over, and to score in the end"
  )
  return 1 if failed else 0


def _environment(home: pathlib.Path) -> dict[str, str]:
  """Programs are compiled once for all runs that share them."""
  if "JAX_COMPILATION_CACHE_DIR" in os.environ:
    return {}
  return {"JAX_COMPILATION_CACHE_DIR": str(home / ".cache")}


def _write_table(
  runs: Sequence["Run"], home: pathlib.Path, more: Sequence[str]
) -> None:
  from scm_jax import files
  from scm_jax.reporting import charts, statistics, tables
  from scm_jax.sweeping import table

  rows = table.gather(runs, more)
  cells = table.to_cells(rows)
  files.write_text(home / "table.csv", table.to_csv(rows))
  files.write_text(home / "table.md", tables.markdown(cells))
  for space in statistics.spaces(rows)[:1]:
    picture = charts.draw_ranking(rows, "label", f"fd_{space}")
    files.write_bytes(home / "table.png", picture)
  print(tables.text(cells))
  print(f"table: {home / 'table.csv'} and {home / 'table.png'}")
