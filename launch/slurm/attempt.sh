#!/usr/bin/env bash
# Runs on the first node of a Slurm job: starts the given command in all tasks,
# and requeues the job if the training was interrupted before it was complete.
set -euo pipefail

say() { printf '==> %s %s\n' "$(date '+%F %T')" "$*"; }

# One task of an array has the number of the whole array as its own.
job=${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID}
job=${job:-$SLURM_JOB_ID}

log=$(mktemp)
trap 'rm -f "$log"' EXIT

# Shortly before the time limit, the training saves and ends.
# shellcheck disable=SC2317,SC2329 # a trap calls it
save() {
  say 'the time limit is near: the training saves'
  scancel --signal=TERM "$job"
}

ended=''
trap save USR1
# SIGTERM means that the job was cancelled or preempted; Slurm itself decides
# whether to requeue it.
trap 'ended=1' TERM

say "attempt $((${SLURM_RESTART_COUNT:-0} + 1)) on $SLURM_JOB_NODELIST"
# Slurm sends SIGTERM to tee too, which must ignore it to log the last lines.
srun --label --kill-on-bad-exit=1 "$@" > >(trap '' TERM && exec tee "$log") \
  2>&1 &
step=$!
while :; do
  code=0
  wait "$step" || code=$?
  kill -0 "$step" 2> /dev/null || break # else a signal interrupted the wait
done
sleep 1 # until the last lines have arrived

if grep -q ' is complete, at step ' "$log"; then
  say 'complete'
elif ((code)); then
  say "failed with exit code $code; the same command continues from the last" \
    "checkpoint"
  exit "$code"
elif [[ -n $ended ]]; then
  say 'stopped by Slurm'
else
  say 'not complete; back into the queue'
  scontrol requeue "$job"
fi
