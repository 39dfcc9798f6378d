#!/usr/bin/env bash
# Trains a teacher and two students on this machine, and compares them.
set -euo pipefail

usage() {
  cat << 'END'
usage: launch/local.sh [flags] [--config.KEY=VALUE ...]

Sets everything up, trains a TrigFlow teacher, distils an sCD student from it,
trains an sCT student, scores all three and writes a report. On a CPU of two
cores or more the students train at the same time. The same command continues a
stopped job.

  --config=FILE[:ARG]  config file, or the name of a shipped one, such as mnist
                       (default: configs/digits.py)
  --workdir=DIR        folder of the runs (default: runs/NAME of the config)
  --seeds=N[,N...]     random seeds (default: 0); several use DIR/seed_N
  --tiny               runs the same steps in seconds, as a test
  --devices=N          uses N virtual devices of the CPU, to try sharding
  --dry-run            prints the commands and stops
  --config.KEY=VALUE   overrides a config field in the three trainings
END
}

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
source "$root/launch/lib/common.sh"
source "$root/launch/lib/hardware.sh"
source "$root/launch/lib/flags.sh"

students=(scd sct) # one with a teacher, one without

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
for i in ${overrides[@]+"${!overrides[@]}"}; do
  overrides[i]=$(absolute_override "${overrides[i]}")
done
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

# Trainings share a CPU, on which one alone leaves cores idle, but no accelerator.
cores=1
if [[ -n $devices || -z $(hardware_extra 2> /dev/null) ]]; then
  export_lines < <(cpu_flags)
  if [[ -z $devices ]]; then
    cores=$(nproc 2> /dev/null || getconf _NPROCESSORS_ONLN)
  fi
fi

elapsed() { printf '%d min %02d s' $(($1 / 60)) $(($1 % 60)); }

# Starts a command in a process group of its own, as one of `jobs`.
start() {
  set -m
  "$@" < /dev/null &
  set +m
  jobs+=($!)
}

# Waits for all `jobs` and passes signals on to them, so that trainings save
# before this script ends. Returns the exit code of the first one that failed.
finish() {
  local job code first=0 stopped='' again
  trap 'stopped=130 again=1; pass_on INT' INT
  trap 'stopped=143 again=1; pass_on TERM' TERM
  for job in "${jobs[@]}"; do
    again=1 # until no signal interrupts the wait
    while [[ -n $again ]]; do
      again='' code=0
      wait "$job" || code=$?
    done
    ((first)) || first=$code
  done
  trap - INT TERM
  return "${stopped:-$first}"
}

pass_on() {
  local job
  for job in "${jobs[@]}"; do
    kill "-$1" "-$job" 2> /dev/null || true
  done
}

run() {
  local jobs=()
  start "$@"
  finish
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

# Runs a command on its share of the cores; its lines begin with a label.
labelled() {
  export NPROC=$((cores / ${#students[@]})) # XLA starts as many threads
  exec > >(
    trap '' INT TERM # what the command says when it is stopped is shown, too
    while IFS= read -r line; do printf '%s: %s\n' "$1" "$line"; done
  ) 2>&1
  shift
  "$@"
}

main_job() {
  local seed=$1 dir=$2 run workdirs=$2/teacher jobs=() side_by_side=''
  train teacher "$dir" "$seed"
  if ((cores >= ${#students[@]})) && [[ -z $dry_run ]]; then side_by_side=1; fi
  for run in "${students[@]}"; do
    workdirs+=,$dir/$run
    if [[ -z $side_by_side ]]; then
      train "$run" "$dir" "$seed" "--config.teacher=$dir/teacher"
    else
      start labelled "$run" \
        train "$run" "$dir" "$seed" "--config.teacher=$dir/teacher"
      stage=$((stage + 1))
    fi
  done
  if [[ -n $side_by_side ]]; then finish || exit $?; fi
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
