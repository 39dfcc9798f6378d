# shellcheck shell=bash
# What goes to the bucket, into WORKDIR/launch: the code as a wheel, the config
# folder, the job and the script that runs it; and what the hosts say there.

# Writes a file, or prints the command that would.
write() {
  local text
  text=$(cat)
  if [[ -n $dry_run ]]; then
    printf 'cat > %q << '\''END_OF_FILE'\''\n%s\nEND_OF_FILE\n' "$1" "$text"
  else
    printf '%s\n' "$text" > "$1"
  fi
}

# The versions of the libraries here, which the machines get too: a run does not
# change its libraries when it is preempted.
pins() {
  local python=$root/.venv/bin/python
  [[ -x $python ]] || return 0
  "$python" -m pip list --format=freeze --disable-pip-version-check |
    grep -E '^(jax|flax|optax|orbax-checkpoint|grain|gcsfs)==' || true
}

# The job, as shell variables that the hosts read.
job() {
  printf 'NAME=%q\nWORKDIR=%q\nFAMILY=%q\n' "$name" "$workdir" "$family"
  printf 'HOSTS=%q\nCONFIG=%q\n' "$hosts" \
    "$(basename "$config_folder")/${config#"$config_folder/"}"
  printf 'OVERRIDES=(%s)\n' "$(quoted ${overrides[@]+"${overrides[@]}"})"
  printf 'PINS=(%s)\n' "$(pins | paste -s -d ' ' -)"
  environment
}

# Builds and uploads everything; a state left by an earlier job is removed.
ship() {
  local wheels=$scratch/wheel files=("$config_folder"/*.py)
  local parent=${config_folder%/*}
  cloud launch/setup.sh train || return
  # What an earlier build left in build/ would be in the wheel too.
  cloud rm -rf "$wheels" build/lib || return
  cloud .venv/bin/python -m pip wheel --quiet --no-deps \
    --wheel-dir="$wheels" . || return
  cloud tar -czf "$scratch/configs.tar.gz" -C "$parent/" \
    "${files[@]#"$parent/"}" || return
  job | write "$scratch/job.env"
  forget_states
  cloud gcloud storage cp "$wheels/scm_jax-$version-py3-none-any.whl" \
    "$scratch/configs.tar.gz" "$scratch/job.env" launch/gcp/host.sh "$shipped/"
}

# With an earlier job's states a watcher would take this one for done.
forget_states() {
  if [[ -n $dry_run ]]; then
    echo "$(quoted gcloud storage rm --recursive "$shipped/state/") || true"
  elif ! ask gcloud storage rm --recursive "$shipped/state/"; then
    die "cannot write to $workdir"
  fi
}

# What the hosts wrote last: lines "HOST STATE [DETAIL]".
states() { ask gcloud storage cat "$shipped/state/*"; }

# complete, failed or nothing yet. One host that has seen the end is enough.
outcome() {
  local all
  all=$(states) || return
  if grep -q ' complete' <<< "$all"; then
    echo complete
  elif grep -q ' failed' <<< "$all"; then
    echo failed
  fi
}
