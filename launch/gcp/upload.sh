# shellcheck shell=bash
# Uploads to WORKDIR/launch: the code as a wheel, the folder of the config, the
# job, and the script that runs it. Reads there what the hosts report.

# Writes standard input to a file, or prints the command that would.
write() {
  local text
  text=$(cat)
  if [[ -n $dry_run ]]; then
    printf 'cat > %q << '\''END_OF_FILE'\''\n%s\nEND_OF_FILE\n' "$1" "$text"
  else
    printf '%s\n' "$text" > "$1"
  fi
}

# Writes the start-up script, with the folder that it downloads from.
write_boot() {
  {
    echo '#!/usr/bin/env bash'
    printf 'LAUNCH=%q\n' "$uploaded"
    sed 1d launch/gcp/boot.sh
  } | write "$scratch/boot.sh"
}

# Prints the versions of the libraries here. The machines install the same, so
# that a run does not change its libraries when it is preempted.
pins() {
  local python=$root/.venv/bin/python
  [[ -x $python ]] || return 0
  "$python" -m pip list --format=freeze --disable-pip-version-check |
    grep -E '^(jax|flax|optax|orbax-checkpoint|grain|gcsfs)==' || true
}

# Prints the job as shell variables that the hosts read.
job() {
  printf 'NAME=%q\nWORKDIR=%q\nFAMILY=%q\n' "$name" "$workdir" "$family"
  printf 'HOSTS=%q\nCONFIG=%q\n' "$hosts" \
    "$(basename "$config_folder")/${config#"$config_folder/"}"
  printf 'OVERRIDES=(%s)\n' "$(quoted ${overrides[@]+"${overrides[@]}"})"
  printf 'PINS=(%s)\n' "$(pins | paste -s -d ' ' -)"
  environment
}

# Builds and uploads everything. Removes what the hosts of an earlier job
# reported, or the watch would take this job for complete.
upload() {
  local wheels=$scratch/wheel files=("$config_folder"/*.py)
  local parent=${config_folder%/*} remove=(gcloud storage rm --recursive)
  cloud launch/setup.sh train || return
  # The wheel must not contain what an earlier build left in build/.
  cloud rm -rf "$wheels" build/lib || return
  cloud .venv/bin/python -m pip wheel --quiet --no-deps \
    --wheel-dir="$wheels" . || return
  cloud tar -czf "$scratch/configs.tar.gz" -C "$parent/" \
    "${files[@]#"$parent/"}" || return
  job | write "$scratch/job.env"
  if [[ -n $dry_run ]]; then
    echo "$(quoted "${remove[@]}" "$uploaded/state/") || true"
  else
    ask "${remove[@]}" "$uploaded/state/" || die "cannot write to $workdir"
  fi
  cloud gcloud storage cp "$wheels/scm_jax-$version-py3-none-any.whl" \
    "$scratch/configs.tar.gz" "$scratch/job.env" launch/gcp/host.sh "$uploaded/"
}

# Prints what the hosts reported last: lines "HOST STATE [DETAIL]".
states() { ask gcloud storage cat "$uploaded/state/*"; }

# Prints complete, failed, or nothing for a run that has not ended. The report
# of one host is enough.
outcome() {
  local all
  all=$(states) || return
  if grep -qE '^[^ ]+ complete$' <<< "$all"; then
    echo complete
  elif grep -qE '^[^ ]+ failed' <<< "$all"; then
    echo failed
  fi
}
