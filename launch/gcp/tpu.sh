# shellcheck shell=bash
# A TPU slice as a queued resource, with one node of the same name.

tpu_create() {
  cloud gcloud compute tpus queued-resources create "$name" \
    --node-id="$name" "${place[@]}" --type="$tpu_type" \
    --topology="$topology" --runtime-version="$runtime" \
    ${spot:+--spot} --labels="scm-jax=$name" \
    --scopes=https://www.googleapis.com/auth/cloud-platform \
    --metadata-from-file="startup-script=$scratch/boot.sh"
}

# absent, waiting, running or gone (preempted or failed: to be made again).
tpu_state() {
  local state
  state=$(ask gcloud compute tpus queued-resources describe "$name" \
    "${place[@]}" --format='value(state.state)') || return
  case $state in
    '') echo absent ;;
    ACTIVE) tpu_node_state ;;
    SUSPENDED | FAILED) echo gone ;;
    *) echo waiting ;; # in the queue, or on its way in or out
  esac
}

# The queue may not yet know that the node was preempted.
tpu_node_state() {
  local state
  state=$(ask gcloud compute tpus tpu-vm describe "$name" "${place[@]}" \
    --format='value(state)') || return
  case $state in
    PREEMPTED | TERMINATED | STOPPED | '') echo gone ;;
    *) echo running ;;
  esac
}

# A preempted slice does not come back; its queued resource is made anew.
tpu_revive() { tpu_remove && tpu_create; }

tpu_remove() {
  fine=absent cloud gcloud compute tpus queued-resources delete "$name" \
    "${place[@]}" --force --quiet
}

# What is there, one a line.
tpu_left() {
  ask gcloud compute tpus queued-resources list "${place[@]}" \
    --filter="name~/$name\$" --format='value(name)' || return
  ask gcloud compute tpus tpu-vm list "${place[@]}" \
    --filter="name~/$name\$" --format='value(name)'
}

tpu_show() {
  cloud gcloud compute tpus queued-resources list "${place[@]}" \
    --filter="name~/$name\$"
}

# Runs a command on one host, or on all.
tpu_ssh() {
  cloud gcloud compute tpus tpu-vm ssh "$name" "${place[@]}" \
    --worker="$1" --command="$2"
}
