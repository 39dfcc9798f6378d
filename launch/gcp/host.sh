#!/usr/bin/env bash
# Runs the job on one host until it is complete: installs, trains, and starts the
# training again from its last checkpoint after an interruption. The start-up
# script of a machine and a Kubernetes container both run it.
set -euo pipefail

home=${SCM_HOME:-/opt/scm_jax}
retry_seconds=${SCM_RETRY_SECONDS:-30}
cd "$home"
# shellcheck source=/dev/null
source ./job.env
launch=$WORKDIR/launch
log=$home/train.log
stopped='' child=''
export PATH=$home/venv/bin:$home/bin:$PATH
export JAX_COMPILATION_CACHE_DIR=${JAX_COMPILATION_CACHE_DIR-$home/jax_cache}

# The host's name stays the same when another machine takes its place. Google's
# host names end with the host's number; Kubernetes has a variable for it.
me=$NAME-${JOB_COMPLETION_INDEX:-${HOSTNAME##*-}}

# Writes the host's state to the bucket, where gcp.sh reads it. A failure to do so
# does not stop the training.
report() {
  echo "host.sh: $*"
  printf '%s %s\n' "$me" "$*" |
    gcloud storage cp - "$launch/state/$me" || true
}

keep_log() {
  tail -n 2000 "$log" | gcloud storage cp - "$launch/logs/$me.log" || true
}

# shellcheck disable=SC2317,SC2329 # attempt calls it
install() {
  local wheel accelerator=cuda12
  if [[ $FAMILY == tpu ]]; then accelerator=tpu; fi
  # A command whose code is asked for goes on after errors, in spite of set -e.
  rm -rf code && mkdir -p code || return
  gcloud storage cp "$launch/*.whl" "$launch/configs.tar.gz" code/ || return
  tar -xzf code/configs.tar.gz || return
  command -v uv > /dev/null || curl -LsSf https://astral.sh/uv/install.sh |
    env UV_INSTALL_DIR="$home/bin" UV_NO_MODIFY_PATH=1 sh || return
  [[ -x venv/bin/python ]] || uv venv --quiet --python 3.12 venv || return
  wheel=$(echo code/*.whl)
  # The code may have changed without a new version.
  VIRTUAL_ENV=$home/venv uv pip install --quiet --reinstall-package scm-jax \
    "./${wheel}[train]" "jax[$accelerator]" ${PINS[@]+"${PINS[@]}"}
}

# Tells GPU processes how to find each other. JAX knows it on TPUs, and the
# manifest sets it in Kubernetes.
find_each_other() {
  if [[ $FAMILY == gpu ]] && ((HOSTS > 1)) && [[ -z ${SCM_COORDINATOR:-} ]]; then
    export SCM_COORDINATOR=$NAME-0:8476
    export SCM_NUM_PROCESSES=$HOSTS
    export SCM_PROCESS_ID=${HOSTNAME##*-}
    wait_for_hosts
  fi
}

# Waits until all machines are up: a spot machine may be away for hours.
wait_for_hosts() {
  local i
  for ((i = 0; i < HOSTS; i++)); do
    until timeout 5 bash -c "< /dev/tcp/$NAME-$i/22" 2> /dev/null; do
      [[ -z $stopped ]] || return 0
      echo "host.sh: waiting for $NAME-$i"
      sleep "$retry_seconds"
    done
  done
}

# Runs a command once. A signal is passed on; a training saves and ends.
attempt() {
  local code
  : > "$log"
  "$@" > >(tee -a "$log") 2>&1 &
  child=$!
  while :; do
    code=0
    wait "$child" || code=$?
    kill -0 "$child" 2> /dev/null || break # else a signal interrupted the wait
  done
  child=''
  sleep "${SCM_LOG_SECONDS:-1}" # until the last lines have arrived
  keep_log
  return "$code"
}

# Returns whether the run is complete. Only the first process logs that; the
# other hosts read it from the bucket.
complete() {
  local i states
  for i in 1 2 3 4 5 6; do
    if grep -q ' is complete, at step ' "$log"; then return; fi
    states=$(gcloud storage cat "$launch/state/*" 2> /dev/null || true)
    if grep -qE '^[^ ]+ complete$' <<< "$states"; then return; fi
    if ((HOSTS == 1)) || [[ -n $stopped ]]; then return 1; fi
    if ((i < 6)); then sleep "$((retry_seconds / 3))"; fi
  done
  return 1
}

# Returns whether no further attempt can succeed.
hopeless() { (($1 == 2)) || grep -q 'diverged by step' "$log"; }

# shellcheck disable=SC2317,SC2329 # a trap calls it
stop() {
  stopped=1
  if [[ -n $child ]]; then kill -TERM "$child" 2> /dev/null || true; fi
}

main() {
  local code installed='' failures=() recent now
  trap stop TERM INT
  while [[ -z $stopped ]]; do
    code=0
    if [[ -z $installed ]]; then
      report installing
      attempt install || code=1 # uv's 2 is often the network's fault
      if ((code == 0)); then installed=1 && continue; fi
    else
      find_each_other
      [[ -z $stopped ]] || break
      report training
      attempt scm-jax train "--config=$CONFIG" "--workdir=$WORKDIR" \
        ${OVERRIDES[@]+"${OVERRIDES[@]}"} || code=$?
      if ((code == 0)) && complete; then
        report complete
        exit 0
      fi
    fi
    [[ -z $stopped ]] || break
    if ((code)); then
      # More than five failures in six hours will not end by themselves.
      now=$SECONDS recent=()
      for then in ${failures[@]+"${failures[@]}"} "$now"; do
        if ((now - then < 21600)); then recent+=("$then"); fi
      done
      failures=("${recent[@]}")
      if hopeless "$code" || ((${#failures[@]} > 5)); then
        report "failed with exit code $code: $(tail -n 1 "$log")"
        exit 70 # the JobSet's manifest does not restart after this code
      fi
    fi
    report "starting again after exit code $code"
    sleep "$retry_seconds" & # in the background, so that a signal ends it
    wait $! || true
  done
  report stopped
  # Not complete: Kubernetes would not restart a container that exits with 0.
  exit 75
}

main
