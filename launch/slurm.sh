#!/usr/bin/env bash
# Trains on a Slurm cluster with one process a GPU, and resumes preempted runs.
set -euo pipefail

usage() {
  cat << 'TEXT'
usage: launch/slurm.sh --config=FILE[:ARG] --workdir=DIR [flags]
                       [--config.KEY=VALUE ...]
       launch/slurm.sh --array=FILE [flags]

Sets up .venv and submits a job. Shortly before the time limit, the training
saves and the job returns to the queue; so it does when it is preempted or a node
fails, until the run is complete. DIR and this repository must be on a file
system that all nodes share.

  --nodes=N            (default: 1)
  --gpus-per-node=N    (default: 8); 0 trains on CPUs, one process a node
  --cpus-per-task=N    CPU cores of each process, which load the data
  --partition=P --account=A --qos=Q --time=T    as for sbatch
  --array=FILE         trains many runs as a job array; each line of FILE holds
                       the arguments of one, separated by tabs (scm-jax sweep)
  --array-limit=N      trains at most N of them at a time
  --name=NAME          name of the job (default: scm- and the workdir's name)
  --save-seconds=N     saves N seconds before the time limit (default: 300)
  --sbatch=FLAG        any other flag for sbatch, such as --sbatch=--exclusive
  --dry-run            prints the commands and stops
TEXT
}

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
source "$root/launch/lib/common.sh"
source "$root/launch/lib/flags.sh"

config='' workdir='' nodes=1 gpus=8 name='' save=300 time='' dry_run=''
array='' limit=''
overrides=() extra=()
for arg in "$@"; do
  case $arg in
    --config=?*) config=${arg#*=} ;;
    --config.?*=*) overrides+=("$arg") ;;
    --workdir=?*) workdir=${arg#*=} ;;
    --array=?*) array=${arg#*=} ;;
    --array-limit=?*) limit=${arg#*=} ;;
    --nodes=?*) nodes=${arg#*=} ;;
    --gpus-per-node=?*) gpus=${arg#*=} ;;
    --partition=?* | --account=?* | --qos=?* | --time=?* | --cpus-per-task=?*)
      extra+=("$arg")
      if [[ $arg == --time=* ]]; then time=${arg#*=}; fi
      ;;
    --name=?*) name=${arg#*=} ;;
    --save-seconds=?*) save=${arg#*=} ;;
    --sbatch=--?*) extra+=("${arg#*=}") ;;
    --dry-run) dry_run=1 ;;
    -h | --help) usage && exit 0 ;;
    *) usage_error "unknown argument '$arg'" ;;
  esac
done

check() {
  if [[ -n $array ]]; then
    [[ -z $config$workdir && ${#overrides[@]} == 0 ]] ||
      usage_error '--array=FILE excludes --config and --workdir'
    [[ -s $array ]] || usage_error "there are no runs in $array"
    [[ $limit =~ ^([1-9][0-9]*)?$ ]] ||
      usage_error "--array-limit=$limit is not a number"
  else
    [[ -n $config ]] || usage_error 'give --config'
    [[ -n $workdir ]] || usage_error 'give --workdir'
  fi
  [[ $nodes =~ ^[1-9][0-9]*$ ]] || usage_error "--nodes=$nodes is not a number"
  [[ $gpus =~ ^[0-9]+$ ]] || usage_error "--gpus-per-node=$gpus is not a number"
  [[ $save =~ ^[0-9]+$ ]] || usage_error "--save-seconds=$save is not a number"
  ! too_short "$time" || usage_error "--time=$time leaves no time to train" \
    "before it saves, --save-seconds=$save ahead of the end"
}

# Returns whether the training would save as soon as it begins, and go back into
# the queue for ever. Slurm's times are M, M:S, H:M:S, D-H, D-H:M and D-H:M:S.
too_short() {
  local day=0 rest=$1 a b c
  [[ $rest =~ ^([0-9]+-)?[0-9]+(:[0-9]+){0,2}$ ]] || return 1 # sbatch's affair
  if [[ $rest == *-* ]]; then day=${rest%%-*} rest=${rest#*-}:0:0; fi
  IFS=: read -r a b c _ <<< "$rest"
  if [[ $1 != *-* && -z $c ]]; then c=${b:-0} b=$a a=0; fi
  ((10#$day * 86400 + 10#$a * 3600 + 10#$b * 60 + 10#$c < save + 60))
}

# Makes all paths absolute, because the job runs in another folder.
make_absolute() {
  if [[ -n $array ]]; then
    array=$(cd "$(dirname "$array")" && pwd -P)/$(basename "$array")
    name=${name:-scm-$(basename "$array" .tsv)}
    return
  fi
  config=$(absolute_config "$config") || exit
  workdir=${workdir%/}
  [[ $workdir == /* || $workdir == *://* ]] || workdir=$PWD/${workdir#./}
  name=${name:-scm-$(basename "$workdir")}
  local i
  for i in ${overrides[@]+"${!overrides[@]}"}; do
    overrides[i]=$(absolute_override "${overrides[i]}")
  done
}

# Submits attempt.sh with the training as its arguments.
submit() {
  local tasks=$gpus log=%x-%j command=()
  if [[ -n $array ]]; then
    log=%x-%A_%a
    extra+=("--array=0-$(($(grep -c '' "$array") - 1))${limit:+%$limit}")
    command=(launch/slurm/one_of.sh "$array" "$root/.venv/bin/scm-jax" train)
  else
    command=("$root/.venv/bin/scm-jax" train "--config=$config"
      "--workdir=$workdir" ${overrides[@]+"${overrides[@]}"})
  fi
  if ((gpus)); then
    extra+=("--gpus-per-node=$gpus")
  else
    tasks=1
  fi
  do_ sbatch --parsable --job-name="$name" --nodes="$nodes" \
    --ntasks-per-node="$tasks" --requeue --open-mode=append \
    --output="$logs/$log.log" --signal="B:USR1@$save" \
    ${extra[@]+"${extra[@]}"} launch/slurm/attempt.sh "${command[@]}"
}

# Runs a command, or prints it as it would be typed.
do_() {
  if [[ -z $dry_run ]]; then "$@"; else quoted "$@"; fi
}

# Prints `export` lines for the processes' environment, which sbatch passes on.
environment() {
  echo "export JAX_COMPILATION_CACHE_DIR=$(printf %q "$root/.cache/jax")"
  if ((gpus)); then gpu_flags; fi
}

has_cuda() {
  .venv/bin/python -c 'import importlib.util as u, sys
sys.exit(not any(u.find_spec(f"jax_cuda{v}_plugin") for v in (12, 13)))'
}

check
make_absolute
cd "$root"
logs=$root/runs/slurm
if [[ -n $dry_run ]]; then do_ cd "$root"; fi
do_ launch/setup.sh train
if [[ -z $dry_run ]]; then
  ((gpus == 0)) || has_cuda || die 'JAX in .venv has no GPU support:' \
    "run SCM_DEVICE=cuda launch/setup.sh, then this command again"
  command -v sbatch > /dev/null || die 'there is no sbatch: is this a login node?'
fi
do_ mkdir -p "$logs"
export_lines < <(environment)
if [[ -n $dry_run ]]; then
  submit
else
  job=$(submit) || die 'sbatch refused the job; see its message above'
  job=${job%%;*}
  say "job $job; its log: $logs/$name-$job${array:+_*}.log;" \
    "scancel $job ends it"
fi
