#!/usr/bin/env bash
# Reproduces docs/reproduction.md: its trainings, scores, tables and figures.
set -euo pipefail

usage() {
  cat << 'TEXT'
usage: launch/reproduce.sh [--config=NAME] [--workdir=DIR] [--parallel=N]
                           [--only=GLOB] [--retry] [--tiny]

Trains and scores the runs of a config's sweep(), and writes the tables and
figures of docs/reproduction.md. The same command continues a stopped job.

  --config=NAME   miniature, the paper's claims (the default), or methods, all
                  ways to few steps at one budget; two to three hours on two CPU
                  cores, and about five
  --workdir=DIR   folder of the runs (default: runs/NAME)
  --parallel=N    how many runs train at a time (default: 2)
  --only=GLOB     only runs whose names match, such as '*_seed=0'; docs/ stays as
                  it is
  --retry         tries failed runs again
  --tiny          trains each run for a few steps; docs/ stays as it is
TEXT
}

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
source "$root/launch/lib/common.sh"
config=miniature workdir='' parallel=2 tiny='' part='' flags=()
for arg in "$@"; do
  case $arg in
    --config=miniature | --config=methods) config=${arg#*=} ;;
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
workdir=${workdir:-runs/$config${tiny:+-tiny}}
launch/setup.sh train
code=0
# Exit code 1 means that some runs failed, which the tables show.
.venv/bin/scm-jax sweep "--config=configs/$config.py$tiny" \
  "--workdir=$workdir" "--parallel=$parallel" \
  ${flags[@]+"${flags[@]}"} || code=$?
((code <= 1)) && [[ -e $workdir/table.csv ]] || exit "$code"
if [[ -z $tiny$part ]]; then
  case $config in
    miniature) .venv/bin/python examples/reproduction.py "$workdir/table.csv" docs ;;
    methods) .venv/bin/python examples/methods.py "$workdir" docs ;;
  esac
fi
exit "$code"
