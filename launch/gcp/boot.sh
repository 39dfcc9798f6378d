#!/usr/bin/env bash
# The start-up script of a machine: downloads the job from the bucket at every
# boot and runs it as the unit scm-jax. LAUNCH, set above, is the bucket's folder.
set -euo pipefail
export HOME=/root
home=/opt/scm_jax
if systemctl is-active --quiet scm-jax; then exit 0; fi
mkdir -p "$home"
cp "$0" "$home/boot.sh"
# The network or the permissions may come a moment after the machine.
until gcloud storage cp "$LAUNCH/host.sh" "$LAUNCH/job.env" "$home/"; do
  sleep 10
done
# On SIGTERM the script passes the signal on and has 300 s to save.
systemd-run --unit=scm-jax --collect --property=KillMode=mixed \
  --property=TimeoutStopSec=300 bash "$home/host.sh"
