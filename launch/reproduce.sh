#!/usr/bin/env bash
# The paper in miniature: all runs, then docs/reproduction.md's tables anew.
set -euo pipefail

usage() {
  cat << 'TEXT'
usage: launch/reproduce.sh [--workdir=DIR] [--parallel=N] [--only=GLOB]
                           [--retry] [--tiny]

Trains and scores what configs/miniature.py's sweep() lists (two to three hours on
two CPU cores), and writes the tables and figures of docs/reproduction.md. Run
again, it continues where it was stopped.

  --workdir=DIR   where the runs go (default: runs/miniature)
  --parallel=N    runs at a time (default: 2)
  --only=GLOB     the runs whose names match, such as '*_seed=0'; leaves docs/ as
                  it is, until the rest has run, too
  --retry         tries again what failed
  --tiny          the same path in a few steps a run; leaves docs/ as it is
TEXT
}

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
workdir='' parallel=2 tiny='' part='' flags=()
for arg in "$@"; do
  case $arg in
    --workdir=?*) workdir=${arg#*=} ;;
    --parallel=?*) parallel=${arg#*=} ;;
    --only=?*) part=1 flags+=("$arg") ;;
    --retry) flags+=("$arg") ;;
    --tiny) tiny=:tiny ;;
    -h | --help) usage && exit 0 ;;
    *)
      printf "reproduce.sh: cannot use '%s'; see launch/reproduce.sh --help\n" \
        "$arg" >&2
      exit 2
      ;;
  esac
done
cd "$root"
workdir=${workdir:-runs/miniature${tiny:+-tiny}}
launch/setup.sh train
code=0
# A run that diverges is a result, too: the tables say so.
.venv/bin/scm-jax sweep "--config=configs/miniature.py$tiny" \
  "--workdir=$workdir" "--parallel=$parallel" \
  ${flags[@]+"${flags[@]}"} || code=$?
((code <= 1)) && [[ -e $workdir/table.csv ]] || exit "$code"
if [[ -z $tiny$part ]]; then
  .venv/bin/python examples/reproduction.py "$workdir/table.csv" docs
fi
exit "$code"
