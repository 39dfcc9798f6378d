#!/usr/bin/env bash
# One attempt of a job under Slurm, on its first node: runs the command given
# on all of its tasks, and puts the job back into the queue when the training
# was interrupted and is not complete.
set -euo pipefail

say() { printf '==> %s %s\n' "$(date '+%F %T')" "$*"; }

# Of an array's jobs one bears the number of the whole array.
job=${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID}
job=${job:-$SLURM_JOB_ID}

log=$(mktemp)
trap 'rm -f "$log"' EXIT

# Ahead of the time limit: the training saves and ends.
# shellcheck disable=SC2317,SC2329 # a trap calls it
save() {
  say 'the time limit is near; the training saves'
  scancel --signal=TERM "$job"
}

ended=''
trap save USR1
# Cancelled, or preempted; then Slurm itself knows what is to become of the job.
trap 'ended=1' TERM

say "attempt $((${SLURM_RESTART_COUNT:-0} + 1)) on $SLURM_JOB_NODELIST"
# Slurm stops what it finds; the last words are to be heard still.
srun --label --kill-on-bad-exit=1 "$@" > >(trap '' TERM && exec tee "$log") \
  2>&1 &
step=$!
while :; do
  code=0
  wait "$step" || code=$?
  kill -0 "$step" 2> /dev/null || break # else a signal ended the wait
done
sleep 1 # for the last lines to come through

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
