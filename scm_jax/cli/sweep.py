"""`scm-jax sweep`: trains and scores the runs of a config's `sweep()`."""

import argparse
import os
import pathlib
from collections.abc import Sequence
from typing import Any

from scm_jax import files
from scm_jax.cli import config_files, configs, flags
from scm_jax.errors import ConfigError

EXAMPLE = """\
scm-jax sweep --config=configs/digits.py --workdir=runs/sweep --parallel=2
scm-jax sweep --config=configs/digits.py:tiny --workdir=runs/tiny --dry-run
scm-jax sweep --config=configs/digits.py --workdir=/shared/sweep \\
    --launcher=slurm --launch=--gpus-per-node=1 --launch=--time=1:00:00"""

FLAGS = {
  "config": configs.FLAGS,
  "--workdir=DIR": "each run trains in DIR/NAME; an earlier sweep goes on",
  "--launcher={local,slurm,gcp}": "this machine, Slurm job arrays, or machines "
  "on Google Cloud for each run; default local",
  "--parallel=N": "how many runs train at a time, each on its share of this "
  "machine's cores; default 1, under Slurm all",
  "--retry": "try failed runs again",
  "--only=GLOB": "points whose names match, and their teachers; default all",
  "--launch=FLAG": "a flag for launch/slurm.sh or launch/gcp.sh; repeatable",
  "--evaluate=FLAG": "a flag for scm-jax evaluate, as --num=500; repeatable",
  "--dry-run": "print the commands and stop",
}
add_arguments = flags.adder(
  FLAGS, ["workdir"], launcher="local", only="*", launch=[], evaluate=[]
)


def run(args: argparse.Namespace, config_argv: list[str]) -> None:
  """Trains and scores the runs, and prints the table."""
  _check(args)
  launch = list(args.launch)
  if args.parallel and args.launcher == "slurm":
    launch.append(f"--array-limit={args.parallel}")

  from etils import epath

  from scm_jax.sweeping.runs import reconcile
  from scm_jax.sweeping.sweep import Sweep

  folder = epath.Path(args.workdir)
  if files.is_remote(folder):  # the sweep's own files stay here
    home = pathlib.Path("runs", folder.name)
  else:
    folder = folder.resolve()
    home = pathlib.Path(folder)
  runs = _runs(config_argv, folder, args.only)
  parallel = args.parallel or 1
  sweep = Sweep(runs, home, args.launcher, parallel, launch, args.evaluate)
  if args.dry_run:
    if not files.is_remote(folder):  # no bucket is asked
      reconcile(runs, write=False)
    print("\n".join(sweep.commands()))
    return
  with files.locked(home, "another sweep, or a run that it started,") as lock:
    reconcile(runs)
    submitted = sweep.train(lock, args.retry)
    if submitted:
      print(submitted)
      sweep.check()
      return
    failures = sweep.score(lock)
    _write_table(runs, home, args.evaluate)
    sweep.check(failures)


def _check(args: argparse.Namespace) -> None:
  """Raises ConfigError for flags that do not go together."""
  for flag in (*args.launch, *args.evaluate):
    if not flag.startswith("--"):
      raise ConfigError(f"{flag!r} is not a flag: flags begin with --")
  flags.check(args, "parallel", least=0)
  if args.launch and args.launcher == "local":
    raise ConfigError("--launch needs --launcher=slurm or --launcher=gcp")
  if files.is_remote(args.workdir) != (args.launcher == "gcp"):
    raise ConfigError(
      f"--workdir={args.workdir}: --launcher=gcp needs a bucket (gs://...), "
      "the other launchers need a folder"
    )


# Fields that may name a path, and what must be there: a reference may be a
# dataset, whose name a folder may have, and a guide a snapshot of the teacher.
_PATHS = dict.fromkeys(
  ("teacher", "start", "data.data_dir", "data.autoencoder"), os.path.exists
) | {
  "guide": lambda path: os.path.exists(f"{path}/config.json"),
  "evaluate.reference": os.path.isfile,
}


def _runs(config_argv: list[str], folder: Any, only: str) -> list[Any]:
  """Returns the runs of the config's sweep, resolved."""
  from scm_jax.sweeping import points, runs

  target, given = configs.split_flags(config_argv)
  name, colon, arg = target.partition(":")
  file = config_files.find(name)
  if os.path.exists(file):  # jobs start in other folders
    target = os.path.abspath(file) + colon + arg
  overrides = {}
  for flag, value in given.items():
    if flag.startswith("--no") or value is None:
      raise ConfigError(f"{flag}: write --config.KEY=VALUE")
    field = flag.partition(".")[2]
    if exists := _PATHS.get(field):
      value = os.path.abspath(value) if exists(value) else value
    overrides[field] = value
  chosen = points.chosen(points.checked(configs.load_sweep(target)), only)
  return runs.resolve(chosen, target, overrides, folder, configs.parse_config)


def _write_table(
  runs: list[Any], home: pathlib.Path, more: Sequence[str]
) -> None:
  from scm_jax.reporting import charts, score_table, tables
  from scm_jax.sweeping import table

  rows = table.gather(runs, more)
  cells = table.to_cells(rows)
  files.write_text(home / "table.csv", table.to_csv(rows))
  files.write_text(home / "table.md", tables.markdown(cells))
  written, picture = [home / "table.csv"], home / "table.png"
  picture.unlink(missing_ok=True)  # it may show other scores
  for space in score_table.spaces(rows)[:1]:
    drawn = charts.draw_ranking(rows, f"fd_{space}")
    files.write_bytes(picture, drawn)
    written.append(picture)
  print(tables.text(cells))
  print(f"table: {' and '.join(map(str, written))}")
