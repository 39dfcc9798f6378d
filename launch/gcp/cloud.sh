# shellcheck shell=bash
# Runs the cloud's commands: printed with --dry-run, explained when they fail.

say() { printf '==> %s\n' "$*"; }
die() {
  printf 'gcp.sh: %s\n' "$*" >&2
  exit 1
}

# As it would be typed.
quoted() {
  local words
  words=$(printf '%q ' "$@")
  echo "${words% }"
}

# Runs a command; one that fails is explained in one line, its whole output is
# kept in $scratch/errors. Sets `reason` for who wants to go on; a failure for
# the reason $fine is none.
cloud() {
  local code=0
  if [[ -n $dry_run ]]; then
    quoted "$@"
    return
  fi
  reason=''
  "$@" 2> "$scratch/stderr" || code=$?
  if ((code)); then
    cat "$scratch/stderr" >> "$scratch/errors"
    explain "$(< "$scratch/stderr")" "$code"
    if [[ $reason == "${fine:-}" ]]; then return 0; fi
    printf 'gcp.sh: %s failed: %s\n' "${*:1:5}" "$advice" >&2
  else
    cat "$scratch/stderr" >&2
  fi
  return "$code"
}

# Asks the cloud and prints the answer; nothing is asked with --dry-run. That a
# thing is not there is an empty answer.
ask() {
  [[ -z $dry_run ]] || return 0
  local code=0
  "$@" 2> "$scratch/stderr" || code=$?
  if ((code)); then
    explain "$(< "$scratch/stderr")" "$code"
    [[ $reason != absent ]] || return 0
    cat "$scratch/stderr" >> "$scratch/errors"
    printf 'gcp.sh: %s failed: %s\n' "${*:1:5}" "$advice" >&2
  fi
  return "$code"
}

# Sets `reason`, one word, and `advice`, one line, from what a command said.
explain() {
  local text=$1 code=$2 said
  said=$(grep -m 1 -iE 'error|denied|exceeded|not found' <<< "$text" || true)
  said=${said:-$(head -n 1 <<< "$text")}
  shopt -s nocasematch
  case $text in
    *quota*exceeded* | *exceeded*quota* | *insufficient*quota* | \
      *quota*limit* | *QUOTA_EXCEEDED*)
      reason=quota
      advice="your project's quota is too small: ask for more at
        console.cloud.google.com/iam-admin/quotas (TPUs: 'TPU ... cores',
        preemptible ones apart), or take fewer devices or another zone"
      ;;
    *ZONE_RESOURCE_POOL_EXHAUSTED* | *stockout* | \
      *not*enough*resources*available* | *no*more*capacity* | \
      *not*have*enough*resources*)
      reason=stockout
      advice="the zone has no such machines left now: try again later, another
        --zone or --spot; gcp.sh run keeps trying"
      ;;
    *SERVICE_DISABLED* | *API*not*enabled* | *has\ not\ been\ used* | \
      *it\ is\ disabled*)
      reason=api
      advice="an API is off in this project: gcloud services enable
        tpu.googleapis.com compute.googleapis.com container.googleapis.com"
      ;;
    *reauthentication* | *active\ account* | *invalid_grant* | \
      *gcloud\ auth\ login*)
      reason=login
      advice="you are not logged in: gcloud auth login"
      ;;
    *locations/*may\ not\ exist* | *unknown\ zone* | *invalid*zone* | \
      *not*available*in*zone* | *Invalid\ value*\'zone\'* | \
      *unavailable*location* | *not\ exist\ in\ zone*)
      reason=zone
      advice="this zone does not exist or does not have such machines: gcloud
        compute tpus accelerator-types list --zone=-, or gcloud compute
        machine-types list --filter=name~a2- (or a3-)"
      ;;
    *permission* | *forbidden* | *403*)
      reason=permission
      advice="you may not do that: you need roles/tpu.admin (TPUs),
        roles/compute.instanceAdmin.v1 (GPUs), roles/container.developer (GKE),
        roles/iam.serviceAccountUser and roles/storage.objectAdmin (bucket)"
      ;;
    *already*exist*)
      reason=exists
      advice="there is one of this name already: gcp.sh status, then run or
        delete, or another --name"
      ;;
    *no\ matches\ for\ kind*JobSet* | *resource\ type*jobset*)
      reason=jobset
      advice="the cluster does not know JobSets: install it as jobset.sigs.k8s.io
        says"
      ;;
    *not*found* | *404* | *matched\ no\ objects* | *did\ not\ match*)
      reason=absent
      advice="there is no such thing; look at --name, --zone and --project"
      ;;
    *)
      reason=unknown
      advice="see $scratch/errors"
      ((code != 127)) || advice='it is not installed (cloud.google.com/sdk)'
      ;;
  esac
  shopt -u nocasematch
  advice=$(tr -s ' \n' ' ' <<< "$advice")
  advice="${advice% } (it said: ${said:0:200})"
}
