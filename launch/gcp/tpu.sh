# shellcheck shell=bash
# A TPU slice as a queued resource, with one node of the same name.

readonly QUEUED=(gcloud compute tpus queued-resources)

tpu_create() {
  write_boot
  cloud "${QUEUED[@]}" create "$name" \
    --node-id="$name" "${place[@]}" --type="$tpu_type" \
    --topology="$topology" --runtime-version="$runtime" \
    ${spot:+--spot} --labels="scm-jax=$name" \
    --scopes=https://www.googleapis.com/auth/cloud-platform \
    --metadata-from-file="startup-script=$scratch/boot.sh"
}

# Prints absent, waiting, running, or gone (preempted or failed).
tpu_state() {
  local state
  state=$(ask "${QUEUED[@]}" describe "$name" "${place[@]}" \
    --format='value(state.state)') || return
  case $state in
    '') echo absent ;;
    ACTIVE) tpu_node_state ;;
    SUSPENDED | FAILED) echo gone ;;
    *) echo waiting ;; # in the queue, or being made or deleted
  esac
}

# A node may be preempted before its queued resource says so.
tpu_node_state() {
  local state
  state=$(ask gcloud compute tpus tpu-vm describe "$name" "${place[@]}" \
    --format='value(state)') || return
  case $state in
    PREEMPTED | TERMINATED | STOPPED | '') echo gone ;;
    *) echo running ;;
  esac
}

# A preempted slice does not come back; its queued resource is made again.
tpu_revive() { tpu_remove && tpu_create; }

tpu_remove() {
  accepted=absent cloud "${QUEUED[@]}" delete "$name" "${place[@]}" \
    --force --quiet
}

# Prints the names of what exists, one a line.
tpu_left() {
  local list=(list "${place[@]}" --filter="name~/$name\$" --format='value(name)')
  ask "${QUEUED[@]}" "${list[@]}" || return
  ask gcloud compute tpus tpu-vm "${list[@]}"
}

tpu_show() {
  cloud "${QUEUED[@]}" list "${place[@]}" --filter="name~/$name\$"
}

# Runs a command on one host, or on all.
tpu_ssh() {
  cloud gcloud compute tpus tpu-vm ssh "$name" "${place[@]}" \
    --worker="$1" --command="$2"
}
