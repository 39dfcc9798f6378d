#!/usr/bin/env bash
# Trains on Google Cloud: TPU slices, GPU machines, or a Kubernetes cluster.
set -euo pipefail

usage() {
  cat << 'TEXT'
usage: launch/gcp.sh create|run|status|logs|delete [flags] [--config.KEY=VALUE]

  create  uploads the code, makes the machines; they train, and continue where
          they stopped whenever they start again
  run     the same, and stays: makes preempted machines again until the run is
          complete, then deletes them. Run again, it goes on watching
  status  what there is, and what each host says of its training
  logs    the training's log (--host=N, --follow)
  delete  deletes all of it and looks that nothing is left; the workdir stays

  --accelerator=KIND:TOPOLOGY      TPUs: v5e:8x8, v5p:4x4x4, v6e:4x4
               KIND:HOSTSxDEVICES  GPUs: a100-40gb:4x8, a100-80gb:8x8,
                                   h100-80gb:2x8, h200:1x8
  --zone=ZONE          where (for --gke: the cluster's zone or region)
  --workdir=gs://DIR   where everything of the run goes; also DIR/launch
  --config=FILE[:ARG]  config file, as for scm-jax train
  --config.KEY=VALUE   overrides a config field
  --project=PROJECT    (default: gcloud's)
  --name=NAME          of the machines (default: scm- and the workdir's name)
  --spot               cheaper machines that may be taken away at any time
  --gke=CLUSTER        as a JobSet in a cluster that has such nodes
  --update             run: new code and config to machines that are there
  --keep               run: leave the machines when the run ends
  --yes                do not ask before machines are made
  --dry-run            print the commands and stop

status, logs and delete need only --name, or --workdir, where create was run.
TEXT
}

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
source "$root/launch/lib/flags.sh"
source "$root/launch/gcp/machines.sh"
source "$root/launch/gcp/cloud.sh"
source "$root/launch/gcp/ship.sh"
source "$root/launch/gcp/tpu.sh"
source "$root/launch/gcp/gpu.sh"
source "$root/launch/gcp/gke.sh"
source "$root/launch/gcp/watch.sh"

usage_error() {
  printf 'gcp.sh: %s; see launch/gcp.sh --help\n' "$*" >&2
  exit 2
}

accelerator='' zone='' project='' name='' config='' workdir='' spot='' gke=''
update='' keep='' yes='' dry_run='' follow='' host=0 overrides=()
read_flags() {
  local arg
  for arg in "$@"; do
    case $arg in
      --accelerator=?*) accelerator=${arg#*=} ;;
      --zone=?*) zone=${arg#*=} ;;
      --project=?*) project=${arg#*=} ;;
      --name=?*) name=${arg#*=} ;;
      --config=?*) config=${arg#*=} ;;
      --config.?*=*) overrides+=("$arg") ;;
      --workdir=?*) workdir=${arg#*=} workdir=${workdir%/} ;;
      --gke=?*) gke=${arg#*=} ;;
      --host=?*) host=${arg#*=} ;;
      --spot) spot=1 ;;
      --update) update=1 ;;
      --keep) keep=1 ;;
      --yes) yes=1 ;;
      --dry-run) dry_run=1 ;;
      --follow) follow=1 ;;
      *) usage_error "cannot use '$arg'" ;;
    esac
  done
}

# What `create` was told is kept beside the setup's cache, for the other verbs.
recall() {
  local lines=() line given=${#overrides[@]}
  [[ -r $scratch/flags ]] || return 0
  while IFS= read -r line; do
    # Overrides given now take the place of all the old ones.
    if ((given == 0)) || [[ $line != --config.* ]]; then lines+=("$line"); fi
  done < "$scratch/flags"
  overrides=()
  read_flags "${lines[@]}" "$@"
}

remember() {
  [[ -z $dry_run ]] || return 0
  printf '%s\n' "--accelerator=$accelerator" "--zone=$zone" "--name=$name" \
    "--workdir=$workdir" "--config=$config" ${project:+"--project=$project"} \
    ${gke:+"--gke=$gke"} ${spot:+--spot} \
    ${overrides[@]+"${overrides[@]}"} > "$scratch/flags"
}

# Where the workdir's last part makes no name, --name must be given.
check_name() {
  [[ -n $name || -n $workdir ]] || usage_error 'give --workdir or --name'
  name=${name:-scm-$(basename "$workdir" | tr 'A-Z_.' 'a-z--')}
  [[ $name =~ ^[a-z][-a-z0-9]{0,38}[a-z0-9]$ ]] ||
    usage_error "--name=$name is not up to 40 of a-z, 0-9 and -, a letter first"
}

check_flags() {
  local message word
  [[ -n $accelerator ]] || usage_error 'give --accelerator'
  message=$(parse_accelerator "$accelerator") || usage_error "$message"
  parse_accelerator "$accelerator"
  [[ -n $zone ]] || usage_error 'give --zone'
  [[ $workdir =~ ^gs://[^/]+/.+$ ]] ||
    usage_error 'give --workdir=gs://BUCKET/FOLDER, which all hosts see'
  [[ $host =~ ^[0-9]+$ ]] || usage_error "--host=$host is not a number"
  for word in ${overrides[@]+"${overrides[@]}"}; do
    if [[ $word == --config.teacher=* && $word != *=gs://* ]]; then
      usage_error "$word: the hosts see folders in gs:// only"
    fi
  done
}

check_config() {
  local file=${config%%:*}
  [[ -n $config ]] || usage_error 'give --config'
  if [[ $file != /* && -e $here/$file ]]; then file=$here/$file; fi
  [[ -e $file ]] || usage_error "no config file $file"
  config_folder=$(cd "$(dirname "$file")" && pwd -P)
  config=$config_folder/$(basename "$file")${config#"${config%%:*}"}
}

confirm() {
  local answer
  say "$(cost_line)" >&2
  if [[ -n $yes || -n $dry_run ]]; then return; fi
  [[ -t 0 ]] || die 'nobody here to ask: add --yes'
  read -r -p 'gcp.sh: make these machines? [y/N] ' answer
  [[ $answer == [yY]* ]] || die 'nothing was made'
}

# The start-up script, with the folder it fetches the job from.
write_boot() {
  {
    echo '#!/usr/bin/env bash'
    printf 'LAUNCH=%q\n' "$shipped"
    sed 1d launch/gcp/boot.sh
  } | write "$scratch/boot.sh"
}

create() {
  local state
  check_config
  state=$("${backend}_state") || exit 1
  [[ $state == absent ]] ||
    die "$name is there already ($state): run goes on with it, delete ends it"
  begin
}

begin() {
  confirm
  remember
  ship || exit 1
  if [[ $backend != gke ]]; then write_boot; fi
  make_machines || return
  [[ -n $dry_run ]] || say "made $name; launch/gcp.sh status, logs or run --name=$name" >&2
}

# Code and config of now to the machines that are there.
update_machines() {
  check_config
  remember
  ship || exit 1
  if [[ $backend == gke ]]; then
    gke_revive || exit 1
  else
    "${backend}_ssh" all 'sudo systemctl stop scm-jax;
      sudo bash /opt/scm_jax/boot.sh' || exit 1
  fi
}

run() {
  local state last_state='' ended=''
  state=$("${backend}_state") || exit 1
  if [[ $state == absent ]]; then
    check_config
    begin || keep_trying
  else
    if [[ $backend != gke ]]; then write_boot; fi
    if [[ -n $update ]]; then update_machines; fi
  fi
  if [[ -n $dry_run ]]; then
    echo "# then, every minute, until a host says complete or failed:"
    echo "# preempted machines are made again; at the end (without --keep):"
    delete
    return
  fi
  say "watching $name; stop this with Ctrl-C, the training goes on"
  until look; do sleep "${SCM_POLL_SECONDS:-60}"; done
  say "$name: $ended"
  states | sed 's/^/    /'
  if [[ -z $keep ]]; then delete; fi
  [[ $ended == complete ]]
}

status() {
  "${backend}_show" || exit 1
  if [[ -n $dry_run ]]; then
    quoted gcloud storage cat "$shipped/state/*"
  else
    states
  fi
}

logs() {
  local unit="sudo journalctl --unit=scm-jax --output=cat --lines=200"
  if [[ $backend == gke ]]; then
    gke_logs && return
  else
    "${backend}_ssh" "$host" "$unit${follow:+ --follow}" && return
  fi
  say 'the hosts do not answer; the end of the log that they kept:' >&2
  cloud gcloud storage cat "$shipped/logs/*"
}

delete() {
  local left
  "${backend}_remove" || true
  left=$("${backend}_left") || exit 1
  [[ -z $left ]] || die "still there: ${left//$'\n'/ }; run delete again"
  if [[ -z $dry_run ]]; then
    rm -f "$scratch/flags"
    say "nothing of $name is left running; $workdir stays"
  fi
}

case ${1:-} in
  create | run | status | logs | delete) verb=$1 ;;
  -h | --help) usage && exit 0 ;;
  *) usage_error "the first word is create, run, status, logs or delete" ;;
esac
shift
here=$PWD
read_flags "$@"
check_name
cd "$root"
scratch=.cache/gcp/$name
if [[ -n $dry_run ]]; then
  quoted cd "$root"
  quoted mkdir -p "$scratch"
else
  mkdir -p "$scratch"
fi
if [[ $verb != create ]]; then recall "$@"; fi
check_flags
version=$(sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
shipped=$workdir/launch reason='' advice=''
place=(--zone="$zone" ${project:+--project="$project"})
backend=$family
if [[ -n $gke ]]; then backend=gke; fi
command -v gcloud > /dev/null || [[ -n $dry_run ]] ||
  die 'no gcloud here: install it, see cloud.google.com/sdk'
if [[ $backend == gke ]]; then gke_enter || exit 1; fi
"$verb"
