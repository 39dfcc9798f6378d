#!/usr/bin/env bash
# Start-up script of a machine, at every boot: fetches the job from the bucket
# and runs it as the unit scm-jax. LAUNCH, the folder there, is set above.
set -euo pipefail
export HOME=/root
home=/opt/scm_jax
if systemctl is-active --quiet scm-jax; then exit 0; fi
mkdir -p "$home"
cp "$0" "$home/boot.sh"
# The network or the rights may come a moment after the machine.
until gcloud storage cp "$LAUNCH/host.sh" "$LAUNCH/job.env" "$home/"; do
  sleep 10
done
# Stopped by SIGTERM with time to save, which goes on to the training.
systemd-run --unit=scm-jax --collect --property=KillMode=mixed \
  --property=TimeoutStopSec=300 bash "$home/host.sh"
