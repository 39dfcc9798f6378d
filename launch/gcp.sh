#!/usr/bin/env bash
# Trains on Google Cloud: on TPU slices, GPU machines, or in a cluster.
set -euo pipefail

usage() {
  cat << 'TEXT'
usage: launch/gcp.sh create|run|status|logs|delete [flags] [--config.KEY=VALUE]

  create  uploads the code and makes the machines, which train. Whenever a
          machine starts again, its training continues
  run     does the same and waits: makes preempted machines again until the run
          is complete, then deletes them. The same command resumes waiting
  status  shows the machines, and what each host reports about its training
  logs    shows the training's log (--host=N, --follow)
  delete  deletes all machines and checks that none is left; keeps the workdir

  --accelerator=KIND:TOPOLOGY      TPUs: v5e:8x8, v5p:4x4x4, v6e:4x4
               KIND:HOSTSxDEVICES  GPUs: a100-40gb:4x8, a100-80gb:8x8,
                                   h100-80gb:2x8, h200:1x8
  --zone=ZONE          zone of the machines (--gke: the cluster's zone or region)
  --workdir=gs://DIR   folder for all files of the run; DIR/launch holds the code
  --config=FILE[:ARG]  config file, as for scm-jax train
  --config.KEY=VALUE   overrides a config field
  --project=PROJECT    (default: gcloud's)
  --name=NAME          name of the machines (default: scm- and the workdir's name)
  --spot               uses cheaper machines that Google may take away at any time
  --gke=CLUSTER        runs as a JobSet in a cluster that has such nodes
  --update             run: sends new code and config to existing machines
  --keep               run: leaves the machines when the run ends
  --yes                makes machines without asking
  --dry-run            prints the commands and stops

status, logs and delete need only --name or --workdir where create was run.
TEXT
}

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
source "$root/launch/lib/common.sh"
source "$root/launch/lib/flags.sh"
source "$root/launch/gcp/cloud.sh"
source "$root/launch/gcp/accelerators.sh"
source "$root/launch/gcp/upload.sh"
source "$root/launch/gcp/tpu.sh"
source "$root/launch/gcp/gpu.sh"
source "$root/launch/gcp/gke.sh"
source "$root/launch/gcp/watch.sh"

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
      *) usage_error "unknown argument '$arg'" ;;
    esac
  done
}

# `create` and `run` keep their flags beside the setup's cache for the other
# verbs. Flags given now take precedence, and overrides replace all old ones.
recall() {
  local lines=() line given=${#overrides[@]}
  [[ -r $scratch/flags ]] || return 0
  while IFS= read -r line; do
    if ((given == 0)) || [[ $line != --config.* ]]; then lines+=("$line"); fi
  done < "$scratch/flags"
  overrides=()
  read_flags "${lines[@]}" "$@"
}

remember() { [[ -n $dry_run ]] || kept_flags > "$scratch/flags"; }

kept_flags() {
  printf '%s\n' "--accelerator=$accelerator" "--zone=$zone" "--name=$name" \
    "--workdir=$workdir" "--config=$config" ${project:+"--project=$project"} \
    ${gke:+"--gke=$gke"} ${spot:+--spot} ${overrides[@]+"${overrides[@]}"}
}

# Returns whether the flags that match a pattern are not those of the machines
# that an earlier call made and nobody has deleted.
differ() {
  [[ -r $scratch/flags ]] &&
    [[ $(grep -E -- "$1" "$scratch/flags") != $(kept_flags | grep -E -- "$1") ]]
}

# Slices and JobSets are asked for in one zone, so that those of another one
# would go on beside the new ones, in the same workdir, and never be found.
check_place() {
  local where='^--(accelerator|zone|project|gke)='
  ! differ "$where" || die "$name may still have the machines of an earlier" \
    "call ($(grep -E -- "$where" "$scratch/flags" | paste -s -d ' ' -)):" \
    "delete them with launch/gcp.sh delete --name=$name, or choose another --name"
}

# Takes the name from the workdir's last part unless --name is given.
check_name() {
  [[ -n $name || -n $workdir ]] || usage_error 'give --workdir or --name'
  name=${name:-scm-$(basename "$workdir" | tr 'A-Z_.' 'a-z--')}
  [[ $name =~ ^[a-z][-a-z0-9]{0,38}[a-z0-9]$ ]] ||
    usage_error "--name=$name must have 2 to 40 characters a-z, 0-9 and -," \
      "beginning with a letter"
}

check_flags() {
  local word value
  [[ -n $accelerator ]] || usage_error 'give --accelerator'
  parse_accelerator
  [[ -n $zone ]] || usage_error 'give --zone'
  [[ $workdir =~ ^gs://[^/]+/.+$ ]] ||
    usage_error 'give --workdir=gs://BUCKET/FOLDER, which all hosts can read'
  [[ $host =~ ^[0-9]+$ ]] || usage_error "--host=$host is not a number"
  for word in ${overrides[@]+"${overrides[@]}"}; do
    value=${word#*=}
    case $word in
      *= | *=gs://* | --config.guide=snapshots/*) ;; # snapshots are the teacher's
      --config.teacher=* | --config.start=* | --config.guide=* | \
        --config.data.data_dir=* | --config.data.autoencoder=*)
        # A network that comes with the package has a name.
        [[ $value != */* && -d $root/scm_jax/pretrained/$value ]] ||
          usage_error "$word: the hosts can only read what is in gs://"
        ;;
    esac
  done
}

check_config() {
  [[ -n $config ]] || usage_error 'give --config'
  config=$(cd "$here" && absolute_config "$config") || exit
  config_folder=$(dirname "${config%%:*}")
}

confirm() {
  local answer
  say "$(cost_line)" >&2
  if [[ -n $yes || -n $dry_run ]]; then return; fi
  [[ -t 0 ]] || die 'cannot ask for confirmation without a terminal: add --yes'
  read -r -p 'gcp.sh: make these machines? [y/N] ' answer
  [[ $answer == [yY]* ]] || die 'nothing was made'
}

create() {
  local state
  check_config
  state=$("${backend}_state") || exit 1
  [[ $state == absent ]] || die "$name exists already ($state): use gcp.sh run" \
    "to go on with it, or delete to end it"
  begin
}

begin() {
  confirm
  upload || exit 1
  make_machines || return
  [[ -n $dry_run ]] ||
    say "made $name; next: launch/gcp.sh status, logs or run --name=$name" >&2
}

# Sends the present code and config to existing machines.
update_machines() {
  check_config
  remember
  upload || exit 1
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
  elif [[ -n $update ]]; then
    update_machines
  elif [[ -r $scratch/flags ]]; then
    check_config
    ! differ '^--(config[.=]|workdir=)' || die "$name trains with another" \
      "config, overrides or workdir: add --update to send these, or leave them out"
  fi
  if [[ -n $dry_run ]]; then
    echo "# then, every minute, until a host reports complete or failed:"
    echo "# makes preempted machines again; at the end (without --keep):"
    delete
    return
  fi
  say "watching $name; Ctrl-C ends the watching, the training goes on"
  until look; do sleep "${SCM_POLL_SECONDS:-60}"; done
  say "$name: $ended"
  states | sed 's/^/    /'
  if [[ -z $keep ]]; then delete; fi
  [[ $ended == complete ]]
}

status() {
  "${backend}_show" || exit 1
  if [[ -n $dry_run ]]; then
    quoted gcloud storage cat "$uploaded/state/*"
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
  say 'the hosts do not answer; this is the end of the log that they kept:' >&2
  cloud gcloud storage cat "$uploaded/logs/*"
}

delete() {
  remove_machines || exit 1
  if [[ -z $dry_run ]]; then
    rm -f "$scratch/flags"
    say "nothing of $name is left running; $workdir stays"
  fi
}

case ${1:-} in
  create | run | status | logs | delete) verb=$1 ;;
  -h | --help) usage && exit 0 ;;
  *) usage_error "the first argument is create, run, status, logs or delete" ;;
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
uploaded=$workdir/launch reason='' advice=''
place=(--zone="$zone" ${project:+--project="$project"})
backend=$family
if [[ -n $gke ]]; then backend=gke; fi
command -v gcloud > /dev/null || [[ -n $dry_run ]] ||
  die 'gcloud is not installed; see cloud.google.com/sdk'
if [[ $backend == gke ]]; then gke_enter || exit 1; fi
if [[ $verb == create || $verb == run ]]; then check_place; fi
"$verb"
