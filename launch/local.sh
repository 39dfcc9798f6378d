#!/usr/bin/env bash
# Trains a teacher and three students on this machine, and compares them.
set -euo pipefail

usage() {
  cat << 'END'
usage: launch/local.sh [flags] [--config.KEY=VALUE ...]

Sets everything up, trains a TrigFlow teacher, distils an sCD student from it,
trains an sCT student, turns sCD into multistep sCD, scores all of them and
writes a report. The same command continues a stopped job.

  --config=FILE[:ARG]  config file, or the name of a shipped one, such as mnist
                       (default: configs/digits.py)
  --workdir=DIR        folder of the runs (default: runs/NAME of the config)
  --seeds=N[,N...]     random seeds (default: 0); several use DIR/seed_N
  --tiny               runs the same steps in seconds, as a test
  --devices=N          uses N virtual devices of the CPU, to try sharding
  --dry-run            prints the commands and stops
  --config.KEY=VALUE   overrides a config field in the four trainings
END
}

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
source "$root/launch/lib/common.sh"

# One with a teacher, one without, and one for four steps, which begins with the
# weights of the first and has a fifth of its training. After a whole training
# the third is the best in four steps (docs/reproduction.md); after this short
# one it is not always ahead of the first (BUILD_NOTES.md).
students=(scd sct ms_scd)
readonly SHORT=1000

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
    *) usage_error "unknown argument '$arg'" ;;
  esac
done
[[ $seeds =~ ^[0-9]+(,[0-9]+)*$ ]] || usage_error "--seeds=$seeds is not a list of numbers N,N,..."
[[ $devices =~ ^([1-9][0-9]*)?$ ]] ||
  usage_error "--devices=$devices is not a number"

# Prints a path relative to the repository, where all commands run. A run keeps
# its teacher's path in its config, so the same folder always needs one spelling.
from_root() {
  local path=${1%/} rest=''
  if [[ $path != *://* ]]; then
    if [[ $path != /* ]]; then path=$PWD/${path#./}; fi
    # Resolve links and .. in the part that exists.
    while [[ ! -d $path ]]; do
      rest=/$(basename "$path")$rest
      path=$(dirname "$path")
    done
    path=$(cd "$path" && pwd -P)
    path=${path%/}$rest
  fi
  echo "${path#"$root/"}"
}

# A config file is searched in the current folder first, then in the repository.
# The text after the colon is the config's argument; run= is added below.
file=$(config_path "${config%%:*}") argument=''
if [[ -z $file ]]; then
  file=configs/digits.py
elif [[ -e $file ]]; then
  file=$(from_root "$file")
fi
if [[ $config == *:* ]]; then argument=${config#*:},; fi
if [[ ,$argument =~ ,run= ]]; then
  usage_error "leave out run=: all of run=teacher, ${students[*]} are trained"
fi
if [[ -z $workdir ]]; then
  workdir=runs/$(basename "$file" .py)${tiny:+-tiny}
else
  workdir=$(from_root "$workdir")
fi
cd "$root"
[[ -e $file ]] || usage_error "there is no config file $file"

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
# that a training saves before this script ends.
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
    kill -0 "$job" 2> /dev/null || break # else a signal interrupted the wait
  done
  trap - INT TERM
  return "${stopped:-$code}"
}

stage=0 stages=0
# Runs or prints one stage of the job: step WHAT COMMAND ...
step() {
  local what=$1 start=$SECONDS code=0
  shift
  if [[ -n $dry_run ]]; then
    quoted "$@" | sed 's/\\,/,/g'
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
  local seed=$1 dir=$2 run workdirs=$2/teacher more
  train teacher "$dir" "$seed"
  for run in "${students[@]}"; do
    more=()
    if [[ $run == ms_scd ]]; then
      more=("--config.start=$dir/scd")
      [[ -n $tiny ]] || more+=("--config.total_steps=$SHORT")
    fi
    train "$run" "$dir" "$seed" "--config.teacher=$dir/teacher" \
      ${more[@]+"${more[@]}"}
    workdirs+=,$dir/$run
  done
  step "evaluate" scm-jax evaluate --steps=1,2,4 "--workdir=$workdirs" \
    "--out=$dir"
}

IFS=, read -r -a seed_list <<< "$seeds"
stages=$(((${#students[@]} + 2) * ${#seed_list[@]}))
reports=()
for seed in "${seed_list[@]}"; do
  dir=$workdir
  if ((${#seed_list[@]} > 1)); then dir=$workdir/seed_$seed; fi
  main_job "$seed" "$dir"
  reports+=("$dir/report.png")
done
[[ -n $dry_run ]] || say "all done in $(elapsed "$SECONDS"); the report:" \
  "${reports[*]} (its numbers: report.json beside it)"
