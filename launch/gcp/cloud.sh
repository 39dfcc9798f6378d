# shellcheck shell=bash
# Calls of gcloud and kubectl: printed with --dry-run, explained when they fail.

# Runs a command that changes something, or prints it with --dry-run.
cloud() {
  if [[ -n $dry_run ]]; then
    quoted "$@"
    return
  fi
  attempt "$@" || return
  cat "$scratch/stderr" >&2
}

# Runs a command that only asks, and prints the answer, which is empty for a
# thing that does not exist. Does nothing with --dry-run.
ask() { [[ -n $dry_run ]] || accepted=absent attempt "$@"; }

# Runs a command with its standard error in $scratch/stderr. Explains a failure
# in one line, keeps its whole output in $scratch/errors, and sets `reason`. A
# failure for the reason $accepted counts as a success.
attempt() {
  local code=0
  reason=''
  "$@" 2> "$scratch/stderr" || code=$?
  ((code)) || return 0
  explain "$(< "$scratch/stderr")" "$code"
  cat "$scratch/stderr" >> "$scratch/errors"
  if [[ $reason == "${accepted:-}" ]]; then
    : > "$scratch/stderr"
    return 0
  fi
  warn "${*:1:5} failed: $advice"
  return "$code"
}

# What Google says when it refuses, as regular expressions; the first that
# matches decides. Each has the one word that `reason` becomes, and what to do.
readonly REFUSALS=(
  quota
  'quota.*(exceeded|limit)|exceeded.*quota|insufficient.*quota'
  "your project's quota is too small: ask for more at
   console.cloud.google.com/iam-admin/quotas (TPUs: 'TPU ... cores'; preemptible
   devices have a quota of their own), or use fewer devices or another zone"
  stockout
  'POOL_EXHAUSTED|stockout|not.*enough.*resources|no.*more.*capacity'
  'the zone has no such machines left: try again later, in another --zone, or
   with --spot; gcp.sh run keeps trying'
  api
  'SERVICE_DISABLED|API.*not.*enabled|has not been used|it is disabled'
  'an API is disabled in this project: gcloud services enable
   tpu.googleapis.com compute.googleapis.com container.googleapis.com'
  login
  'reauthentication|active account|invalid_grant|gcloud auth login'
  'you are not logged in: gcloud auth login'
  project
  'attribute \[project\]|core/project'
  'no project is set: gcloud config set project PROJECT, or --project=PROJECT'
  zone
  "locations/.*may not exist|unknown zone|invalid.*zone|invalid value.*'zone'|\
not.*available.*in.*zone|unavailable.*location|not exist in zone"
  'this zone does not exist or has no such machines: gcloud compute tpus
   accelerator-types list --zone=-, or gcloud compute machine-types list
   --filter=name~a2- (or a3-)'
  permission
  'permission|forbidden|403'
  'you lack a permission: you need roles/tpu.admin (TPUs),
   roles/compute.instanceAdmin.v1 (GPUs), roles/container.developer (GKE),
   roles/iam.serviceAccountUser and roles/storage.objectAdmin (bucket)'
  exists
  'already.*exist'
  'there is one of this name already: gcp.sh status, then run or delete, or
   choose another --name'
  jobset
  'no matches for kind.*JobSet|resource type.*jobset'
  'the cluster does not know JobSets: install the controller as
   jobset.sigs.k8s.io describes'
  absent
  'not.*found|404|matched no objects|did not match'
  'it does not exist; check --name, --zone and --project'
)

# Sets `reason`, one word, and `advice`, one line, from what a command said.
explain() {
  local text=$1 code=$2 said i
  said=$(grep -m 1 -iE 'error|denied|exceeded|not found' <<< "$text" || true)
  said=${said:-$(head -n 1 <<< "$text")}
  reason=unknown advice="see $scratch/errors"
  if ((code == 127)); then advice='it is not installed (cloud.google.com/sdk)'; fi
  shopt -s nocasematch
  for ((i = 0; i < ${#REFUSALS[@]}; i += 3)); do
    if [[ $text =~ ${REFUSALS[i + 1]} ]]; then
      reason=${REFUSALS[i]} advice=${REFUSALS[i + 2]}
      break
    fi
  done
  shopt -u nocasematch
  advice=$(tr -s ' \n' ' ' <<< "$advice")
  advice="${advice% } (it said: ${said:0:200})"
}
