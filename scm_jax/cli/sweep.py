"""`scm-jax sweep`: trains and scores the runs of a config's `sweep()`."""

import argparse
import os
import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from scm_jax.cli import configs, console
from scm_jax.errors import ConfigError

if TYPE_CHECKING:
  from scm_jax.sweeping.runs import Run

EXAMPLE = """\
scm-jax sweep --config=configs/digits.py --workdir=runs/sweep --parallel=2
scm-jax sweep --config=configs/digits.py:tiny --workdir=runs/tiny --dry-run
scm-jax sweep --config=configs/digits.py --workdir=/shared/sweep \\
    --launcher=slurm --launch=--gpus-per-node=1 --launch=--time=1:00:00"""
LAUNCHERS = ("local", "slurm", "gcp")


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Declares the flags."""
  configs.add_config_argument(parser)
  parser.add_argument(
    "--workdir",
    metavar="DIR",
    required=True,
    help="each run trains in DIR/NAME; an earlier sweep there is continued",
  )
  parser.add_argument(
    "--launcher",
    choices=LAUNCHERS,
    default="local",
    help="this machine, Slurm job arrays, or machines on Google Cloud for each "
    "run; default local",
  )
  parser.add_argument(
    "--parallel",
    type=int,
    default=0,
    metavar="N",
    help="how many runs train at a time, each on its share of this machine's "
    "cores; default 1, under Slurm all",
  )
  parser.add_argument(
    "--retry", action="store_true", help="try failed runs again"
  )
  parser.add_argument(
    "--only",
    metavar="GLOB",
    default="*",
    help="only points whose names match, and their teachers; default all",
  )
  parser.add_argument(
    "--launch",
    metavar="FLAG",
    action="append",
    default=[],
    help="passes a flag on to launch/slurm.sh or launch/gcp.sh; repeatable",
  )
  parser.add_argument(
    "--evaluate",
    metavar="FLAG",
    action="append",
    default=[],
    help="passes a flag on to scm-jax evaluate, such as --evaluate=--num=500; "
    "repeatable",
  )
  parser.add_argument(
    "--dry-run", action="store_true", help="print the commands and stop"
  )


def run(args: argparse.Namespace, config_argv: list[str]) -> int:
  """Trains and scores the runs, and prints the table; 0 if nothing failed."""
  _check(args)
  if args.parallel and args.launcher == "slurm":
    args.launch.append(f"--array-limit={args.parallel}")
  from etils import epath

  from scm_jax.sweeping.runs import check_same
  from scm_jax.sweeping.sweep import Sweep, locked

  folder = epath.Path(args.workdir)
  remote = "://" in args.workdir
  # The sweep's own files stay here if the runs are in a bucket.
  home = pathlib.Path("runs") / folder.name if remote else folder.resolve()
  home = pathlib.Path(home)
  runs = _runs(config_argv, folder if remote else epath.Path(home), args.only)
  sweep = Sweep(
    runs,
    home,
    args.launcher,
    args.parallel or 1,
    launch=args.launch,
    evaluate=args.evaluate,
  )
  if args.dry_run:
    print("\n".join(sweep.commands()))
    return 0
  console.start()
  with locked(home) as lock:
    check_same(runs)
    submitted = sweep.train(lock, args.retry)
    if submitted:
      print(submitted)
      sweep.check()
      return 0
    failures = sweep.score(lock)
    _write_table(runs, home, args.evaluate)
    sweep.check(failures)
  return 0


def _check(args: argparse.Namespace) -> None:
  """Raises ConfigError for flags that do not go together."""
  for flag in (*args.launch, *args.evaluate):
    if not flag.startswith("--"):
      raise ConfigError(f"{flag!r} is not a flag: flags begin with --")
  if args.parallel < 0:
    raise ConfigError(f"--parallel={args.parallel}: give a positive number")
  if args.launch and args.launcher == "local":
    raise ConfigError("--launch needs --launcher=slurm or --launcher=gcp")
  if ("://" in args.workdir) != (args.launcher == "gcp"):
    raise ConfigError(
      f"--workdir={args.workdir}: --launcher=gcp needs a bucket (gs://...), "
      "the other launchers need a folder"
    )


def _runs(config_argv: list[str], folder: Any, only: str) -> list["Run"]:
  """Returns the runs of the config's sweep, resolved."""
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


def _write_table(
  runs: Sequence["Run"], home: pathlib.Path, more: Sequence[str]
) -> None:
  from scm_jax import files
  from scm_jax.reporting import charts, score_table, tables
  from scm_jax.sweeping import table

  rows = table.gather(runs, more)
  cells = table.to_cells(rows)
  files.write_text(home / "table.csv", table.to_csv(rows))
  files.write_text(home / "table.md", tables.markdown(cells))
  for space in score_table.spaces(rows)[:1]:
    picture = charts.draw_ranking(rows, "label", f"fd_{space}")
    files.write_bytes(home / "table.png", picture)
  print(tables.text(cells))
  print(f"table: {home / 'table.csv'} and {home / 'table.png'}")
