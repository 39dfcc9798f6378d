# shellcheck shell=bash
# GPU machines NAME-0, NAME-1, ... with the label scm-jax=NAME.

readonly INSTANCES=(gcloud compute instances)

gpu_names() {
  local i
  for ((i = 0; i < hosts; i++)); do echo "$name-$i"; done
}

gpu_create() {
  # shellcheck disable=SC2046 # one word a name
  gpu_make $(gpu_names)
}

gpu_make() {
  local disk=pd-balanced
  if [[ $kind == h200 ]]; then disk=hyperdisk-balanced; fi # the only type allowed
  write_boot
  cloud "${INSTANCES[@]}" create "$@" "${place[@]}" \
    --machine-type="$machine" --image-family="$GPU_IMAGE" \
    --image-project="$GPU_IMAGE_PROJECT" --boot-disk-size=200GB \
    --boot-disk-type="$disk" --network-interface=nic-type=GVNIC \
    --maintenance-policy=TERMINATE --scopes=cloud-platform \
    --labels="scm-jax=$name" --metadata=install-nvidia-driver=True \
    --metadata-from-file="startup-script=$scratch/boot.sh" \
    ${spot:+--provisioning-model=SPOT --instance-termination-action=STOP}
}

gpu_list() {
  ask "${INSTANCES[@]}" list ${project:+--project="$project"} \
    --filter="labels.scm-jax=$name" --format="value($1)"
}

# Prints absent, waiting, running, or gone (a machine is stopped or missing).
gpu_state() {
  local all
  all=$(gpu_list status) || return
  if [[ -z $all ]]; then
    echo absent
  elif grep -qE 'TERMINATED|STOPPED|SUSPENDED' <<< "$all" ||
    (($(wc -l <<< "$all") < hosts)); then
    echo gone
  elif grep -qvx RUNNING <<< "$all"; then
    echo waiting
  else
    echo running
  fi
}

# Starts machines that preemption has stopped, where there is room for them,
# and makes deleted ones again.
gpu_revive() {
  local there missing=() stopped=() one
  there=$(gpu_list 'name,status') || return
  for one in $(gpu_names); do
    if ! grep -qE "^${one}[[:space:]]" <<< "$there"; then
      missing+=("$one")
    elif grep -qE "^${one}[[:space:]]+(TERMINATED|STOPPED)" <<< "$there"; then
      stopped+=("$one")
    fi
  done
  if ((${#missing[@]})); then gpu_make "${missing[@]}" || return; fi
  if ((${#stopped[@]})); then
    cloud "${INSTANCES[@]}" start "${stopped[@]}" "${place[@]}"
  fi
}

# Deletes all machines with the label, in whatever zone they are.
gpu_remove() {
  local there zones in_zone code=0
  if [[ -n $dry_run ]]; then
    there=$(gpu_names | sed "s/\$/ $zone/")
  else
    there=$(gpu_left) || return
  fi
  zones=$(awk '{ print $2 }' <<< "$there" | sort -u)
  for in_zone in $zones; do
    # shellcheck disable=SC2046 # one word a name
    accepted=absent cloud "${INSTANCES[@]}" delete \
      $(awk -v z="$in_zone" '$2 == z { print $1 }' <<< "$there") \
      --zone="$in_zone" ${project:+--project="$project"} --quiet || code=$?
  done
  return "$code"
}

gpu_left() { gpu_list 'name,zone.basename()'; }

gpu_show() {
  cloud "${INSTANCES[@]}" list ${project:+--project="$project"} \
    --filter="labels.scm-jax=$name"
}

# Runs a command on one host, or on all.
gpu_ssh() {
  local i first=$1 last=$1
  if [[ $1 == all ]]; then first=0 last=$((hosts - 1)); fi
  for ((i = first; i <= last; i++)); do
    cloud gcloud compute ssh "$name-$i" "${place[@]}" --command="$2" || return
  done
}
