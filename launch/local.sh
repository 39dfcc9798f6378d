#!/usr/bin/env bash
# The main job on this machine: teacher, sCD and sCT students, report.
set -euo pipefail

usage() {
  cat << 'END'
usage: launch/local.sh [flags] [--config.KEY=VALUE ...]

Sets everything up, trains a TrigFlow teacher, distils an sCD student from it,
trains an sCT student, scores all three and writes a report. Run again, it
continues where it was stopped, or says that it is done.

  --config=FILE[:ARG]  config file (default: configs/digits.py)
  --workdir=DIR        where the runs go (default: runs/NAME of the config)
  --seeds=N[,N...]     seeds (default: 0); several go to DIR/seed_N
  --tiny               the same path in seconds, to see that it runs
  --devices=N          on N virtual devices of the CPU, to try sharding
  --dry-run            prints the commands and stops
  --config.KEY=VALUE   overrides a config field in the three trainings
END
}

say() { printf '==> %s\n' "$*"; }
usage_error() {
  printf 'local.sh: %s; see launch/local.sh --help\n' "$*" >&2
  exit 2
}

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
config='' workdir='' seeds=0 tiny='' devices='' dry_run='' overrides=()
for arg in "$@"; do
  case $arg in
    --config=?*) config=${arg#*=} ;;
    --config.?*=*) overrides+=("$arg") ;;
    --workdir=?*) workdir=${arg#*=} ;;
    --seeds=?*) seeds=${arg#*=} ;;
    --tiny) tiny=,tiny ;;
    --devices=?*) devices=${arg#*=} ;;
    --dry-run) dry_run=1 ;;
    -h | --help) usage && exit 0 ;;
    *) usage_error "cannot use '$arg'" ;;
  esac
done
[[ $seeds =~ ^[0-9]+(,[0-9]+)*$ ]] || usage_error "--seeds=$seeds is not N,N,..."
[[ $devices =~ ^([1-9][0-9]*)?$ ]] ||
  usage_error "--devices=$devices is no number"

# A path as seen from the repository, where all commands run. A run keeps its
# teacher's path in its config, so the same path must always be spelt the same.
from_root() {
  local path=${1%/} rest=''
  if [[ $path != *://* ]]; then
    if [[ $path != /* ]]; then path=$PWD/${path#./}; fi
    # Without links and .. in the part that exists.
    while [[ ! -d $path ]]; do
      rest=/$(basename "$path")$rest
      path=$(dirname "$path")
    done
    path=$(cd "$path" && pwd -P)
    path=${path%/}$rest
  fi
  echo "${path#"$root/"}"
}

# A file that is given is looked for here first, then in the repository.
# What follows the colon is the config's own argument; run= is set below.
file=${config%%:*} argument=''
if [[ -z $file ]]; then
  file=configs/digits.py
elif [[ -e $file ]]; then
  file=$(from_root "$file")
fi
if [[ $config == *:* ]]; then argument=${config#*:},; fi
if [[ ,$argument =~ ,run= ]]; then
  usage_error "all of run=teacher, scd and sct are run; leave out run="
fi
if [[ -z $workdir ]]; then
  workdir=runs/$(basename "$file" .py)${tiny:+-tiny}
else
  workdir=$(from_root "$workdir")
fi
cd "$root"
[[ -e $file ]] || usage_error "no config file $file"

[[ -n $dry_run ]] || launch/setup.sh train
export PATH=$root/.venv/bin:$PATH
export JAX_COMPILATION_CACHE_DIR=${JAX_COMPILATION_CACHE_DIR-$root/.cache/jax}

if [[ -n $devices ]]; then
  export JAX_PLATFORMS=cpu JAX_NUM_CPU_DEVICES=$devices
  if [[ -n $dry_run ]]; then
    echo "export JAX_PLATFORMS=cpu JAX_NUM_CPU_DEVICES=$devices"
  fi
fi

elapsed() { printf '%d min %02d s' $(($1 / 60)) $(($1 % 60)); }

# Runs a command in a process group of its own and passes signals on to it, so
# that stopping this script lets the training save first.
run() {
  local job code=0 stopped=''
  set -m
  "$@" < /dev/null &
  job=$!
  set +m
  trap 'stopped=130; kill -INT "-$job" 2> /dev/null || true' INT
  trap 'stopped=143; kill -TERM "-$job" 2> /dev/null || true' TERM
  while :; do
    code=0
    wait "$job" || code=$?
    kill -0 "$job" 2> /dev/null || break # else a signal ended the wait
  done
  trap - INT TERM
  return "${stopped:-$code}"
}

stage=0 stages=0
step() {
  local what=$1 start=$SECONDS code=0
  shift
  if [[ -n $dry_run ]]; then
    printf '%q ' "$@" | sed -e 's/ $//' -e 's/\\,/,/g'
    echo
    return
  fi
  stage=$((stage + 1))
  say "[$stage/$stages] $what: $*"
  run "$@" || code=$?
  if ((code)); then
    say "[$stage/$stages] $what: stopped with exit code $code after" \
      "$(elapsed $((SECONDS - start))); the same command continues from here"
    exit "$code"
  fi
  say "[$stage/$stages] $what: done in $(elapsed $((SECONDS - start)))"
}

train() {
  local run=$1 dir=$2 seed=$3
  shift 3
  step "train $run, seed $seed" scm-jax train \
    "--config=$file:${argument}run=$run$tiny" "--workdir=$dir/$run" "$@" \
    "--config.seed=$seed" ${overrides[@]+"${overrides[@]}"}
}

main_job() {
  local seed=$1 dir=$2
  train teacher "$dir" "$seed"
  train scd "$dir" "$seed" "--config.teacher=$dir/teacher"
  train sct "$dir" "$seed" "--config.teacher=$dir/teacher"
  step "evaluate" scm-jax evaluate \
    "--workdir=$dir/teacher,$dir/scd,$dir/sct" "--out=$dir"
}

IFS=, read -r -a seed_list <<< "$seeds"
stages=$((4 * ${#seed_list[@]}))
reports=()
for seed in "${seed_list[@]}"; do
  dir=$workdir
  if ((${#seed_list[@]} > 1)); then dir=$workdir/seed_$seed; fi
  main_job "$seed" "$dir"
  reports+=("$dir/report.png")
done
[[ -n $dry_run ]] || say "all done in $(elapsed "$SECONDS"); the report:" \
  "${reports[*]} (figures: report.json beside it)"
