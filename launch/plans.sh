#!/usr/bin/env bash
# Plans the ImageNet runs for the hardware that they are meant for.
#
#     launch/plans.sh [PATTERN]
#
# Writes one plan after another to docs/plans/ (or OUT=FOLDER), except existing
# plans and those whose names do not match the shell pattern PATTERN. On one core
# a plan for GPUs takes about four minutes, one for TPUs about nine.
# SCM_JAX=COMMAND runs another program than scm-jax.
set -euo pipefail
case ${1:-} in -h | --help) sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//p}' "$0" && exit 0 ;; esac
cd "$(dirname "$0")/.."

readonly OUT=${OUT:-docs/plans} PATTERN=${1:-*}
# With the default effort, a plan for TPUs takes an hour or more.
export JAX_EXEC_TIME_OPTIMIZATION_EFFORT=-1.0

plan() {
  local run=$1 size=$2 target=$3 config=${4:-imagenet512} on=gpu
  [[ $target != v* ]] || on=tpu
  local name=$config-$run-$size-${target/:/-}
  # shellcheck disable=SC2053  # a pattern
  [[ $name == $PATTERN ]] || return 0
  [[ ! -e $OUT/$name.json ]] || return 0
  echo "$name"
  ${SCM_JAX:-scm-jax} plan --target="$target" --json \
    --config="configs/$config.py:run=$run,size=$size,on=$on" >"$OUT/.$name"
  mv "$OUT/.$name" "$OUT/$name.json"
}

# The extreme sizes are first.
for size in xxl s l m xl; do
  plan scd "$size" a100-80gb:1x8
  plan scd "$size" a100-80gb:8x8
done
for run in teacher sct ect tcm cmt ms_scd ayf meanflow imf alphaflow facm \
  scd_vsd; do
  plan "$run" xxl a100-80gb:8x8
done
plan scd xl a100-80gb:1x8 imagenet256
plan teacher xl a100-80gb:1x8 imagenet256
for size in xxl s l m xl; do
  slice=16x16
  [[ $size != [sm] ]] || slice=8x16
  plan scd "$size" "v5e:$slice"
  plan scd "$size" v5p:4x4x4
done
