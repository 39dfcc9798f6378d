# shellcheck shell=bash
# Prints XLA's flags for a kind of hardware as `export` lines.

exported() {
  local name=$1
  shift
  printf 'export %s=%q\n' "$name" "$*"
}

# Exports the variables of such lines on standard input, except those that the
# user has set. A dry run prints the lines.
export_lines() {
  local line variable
  while IFS= read -r line; do
    variable=${line#export }
    variable=${variable%%=*}
    if [[ -n ${!variable:-} ]]; then
      continue
    elif [[ -n ${dry_run:-} ]]; then
      echo "$line"
    else
      eval "$line"
    fi
  done
}

# Compile the digits' train steps in two thirds of the time. They run as fast.
cpu_flags() {
  exported XLA_FLAGS \
    --xla_backend_extra_options=xla_cpu_disable_loop_unrolling=true
}

# Overlap collectives with computation.
tpu_flags() {
  exported LIBTPU_INIT_ARGS \
    --xla_tpu_enable_async_collective_fusion=true \
    --xla_tpu_enable_async_collective_fusion_fuse_all_gather=true \
    --xla_tpu_enable_async_collective_fusion_multiple_steps=true \
    --xla_tpu_overlap_compute_collective_tc=true \
    --xla_enable_async_all_gather=true
}

# Overlap collectives with computation, and combine small collectives.
gpu_flags() {
  exported XLA_FLAGS \
    --xla_gpu_enable_latency_hiding_scheduler=true \
    --xla_gpu_all_gather_combine_threshold_bytes=134217728 \
    --xla_gpu_reduce_scatter_combine_threshold_bytes=134217728 \
    --xla_gpu_all_reduce_combine_threshold_bytes=134217728
  exported XLA_PYTHON_CLIENT_MEM_FRACTION .92
}
