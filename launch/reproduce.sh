#!/usr/bin/env bash
# Reproduces the paper in miniature, and updates docs/reproduction.md.
set -euo pipefail

usage() {
  cat << 'TEXT'
usage: launch/reproduce.sh [--workdir=DIR] [--parallel=N] [--only=GLOB]
                           [--retry] [--tiny]

Trains and scores the runs of configs/miniature.py's sweep() (two to three hours
on two CPU cores), and writes the tables and figures of docs/reproduction.md. The
same command continues a stopped job.

  --workdir=DIR   folder of the runs (default: runs/miniature)
  --parallel=N    how many runs train at a time (default: 2)
  --only=GLOB     only runs whose names match, such as '*_seed=0'; docs/ stays as
                  it is
  --retry         tries failed runs again
  --tiny          trains each run for a few steps; docs/ stays as it is
TEXT
}

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
source "$root/launch/lib/common.sh"
workdir='' parallel=2 tiny='' part='' flags=()
for arg in "$@"; do
  case $arg in
    --workdir=?*) workdir=${arg#*=} ;;
    --parallel=?*) parallel=${arg#*=} ;;
    --only=?*) part=1 flags+=("$arg") ;;
    --retry) flags+=("$arg") ;;
    --tiny) tiny=:tiny ;;
    -h | --help) usage && exit 0 ;;
    *) usage_error "unknown argument '$arg'" ;;
  esac
done
cd "$root"
workdir=${workdir:-runs/miniature${tiny:+-tiny}}
launch/setup.sh train
code=0
# Exit code 1 means that some runs failed, which the tables show.
.venv/bin/scm-jax sweep "--config=configs/miniature.py$tiny" \
  "--workdir=$workdir" "--parallel=$parallel" \
  ${flags[@]+"${flags[@]}"} || code=$?
((code <= 1)) && [[ -e $workdir/table.csv ]] || exit "$code"
if [[ -z $tiny$part ]]; then
  .venv/bin/python examples/reproduction.py "$workdir/table.csv" docs
fi
exit "$code"
