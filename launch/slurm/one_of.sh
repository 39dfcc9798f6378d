#!/usr/bin/env bash
# Runs one training of a job array: one_of.sh FILE COMMAND ... runs the command
# with the arguments in the array task's line of FILE, separated by tabs.
set -euo pipefail

file=$1
shift
line=$(sed -n "$((SLURM_ARRAY_TASK_ID + 1))p" "$file")
[[ -n $line ]] || {
  echo "one_of.sh: $file has no line for task $SLURM_ARRAY_TASK_ID" >&2
  exit 2
}
IFS=$'\t' read -r -a arguments <<< "$line"
exec "$@" "${arguments[@]}"
