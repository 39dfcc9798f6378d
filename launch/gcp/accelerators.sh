# shellcheck shell=bash
# The machines of a target: their names at Google, their price, and the flags of
# NCCL and XLA on them. Targets are those of `scm-jax plan`: KIND:TOPOLOGY for
# TPUs, KIND:HOSTSxDEVICES for GPUs.

# Approximate list prices in US dollars for a device and hour on demand, in the
# cheapest regions of the United States.
readonly PRICES_OF='mid-2025'

# Prints a kind's price, TPU type and TPU runtime (- for GPUs), and the name of
# its nodes in Kubernetes.
kind_row() {
  case $1 in
    v5e) echo 1.20 v5litepod v2-alpha-tpuv5-lite tpu-v5-lite-podslice ;;
    v5p) echo 4.20 v5p v2-alpha-tpuv5 tpu-v5p-slice ;;
    v6e) echo 2.70 v6e v2-alpha-tpuv6e tpu-v6e-slice ;;
    a100-40gb) echo 3.67 - - nvidia-tesla-a100 ;;
    a100-80gb) echo 5.07 - - nvidia-a100-80gb ;;
    h100-80gb) echo 11.06 - - nvidia-h100-80gb ;;
    h200) echo 10.60 - - nvidia-h200-141gb ;;
  esac
}

# Driver 580, Ubuntu 22.04; CUDA itself comes with jax[cuda12].
readonly GPU_IMAGE=common-cu129-ubuntu-2204-nvidia-580
readonly GPU_IMAGE_PROJECT=deeplearning-platform-release

# Sets, from $accelerator: kind, family (tpu or gpu), topology, devices, hosts,
# per_host, price, and Google's names. Ends the script for an unknown target.
parse_accelerator() {
  kind=${accelerator%%:*} topology=${accelerator#*:}
  read -r price tpu_type runtime node <<< "$(kind_row "$kind")"
  [[ $accelerator == *:* && -n $price ]] ||
    usage_error "--accelerator=$accelerator is neither KIND:TOPOLOGY (v5e," \
      "v5p, v6e) nor KIND:HOSTSxDEVICES (a100-40gb, a100-80gb, h100-80gb, h200)"
  family=gpu
  if [[ $tpu_type != - ]]; then family=tpu; fi
  "parse_$family"
}

parse_tpu() {
  local flat='^(1x1|2x2|2x4|4x4|4x8|8x8|8x16|16x16)$'
  local small='^(2x2x1|2x2x2|2x2x4|2x4x4)$' cubes='^([0-9]+x){2}[0-9]+$'
  local x y z
  if [[ $kind != v5p ]]; then
    [[ $topology =~ $flat ]] || usage_error "$kind has no slice $topology;" \
      "choose from 1x1, 2x2, 2x4, 4x4, 4x8, 8x8, 8x16, 16x16"
    IFS=x read -r x y <<< "$topology"
    devices=$((x * y)) per_host=4
    # A slice of up to 8 chips is one host.
    if ((devices <= 8)); then per_host=$devices; fi
  else
    [[ $topology =~ $small || $topology =~ $cubes ]] || topology=1x1x1
    IFS=x read -r x y z <<< "$topology"
    devices=$((x * y * z)) per_host=4
    [[ $topology =~ $small ]] ||
      ((devices && x % 4 == 0 && y % 4 == 0 && z % 4 == 0)) ||
      usage_error "v5p has no slice ${accelerator#*:}; choose from 2x2x1," \
        "2x2x2, 2x2x4, 2x4x4, or three multiples of 4 (4x4x4, 4x4x8, ...)"
  fi
  hosts=$((devices / per_host))
}

parse_gpu() {
  [[ $topology =~ ^([1-9][0-9]*)x([1-9][0-9]*)$ ]] ||
    usage_error "$accelerator is not $kind:HOSTSxDEVICES, as in $kind:2x8"
  hosts=${BASH_REMATCH[1]} per_host=${BASH_REMATCH[2]}
  devices=$((hosts * per_host))
  case $kind:$per_host in
    a100-40gb:[1248]) machine=a2-highgpu-${per_host}g ;;
    a100-40gb:16) machine=a2-megagpu-16g ;;
    a100-80gb:[1248]) machine=a2-ultragpu-${per_host}g ;;
    h100-80gb:[1248]) machine=a3-highgpu-${per_host}g ;;
    h200:8) machine=a3-ultragpu-8g ;;
    *)
      usage_error "no machine has $per_host of $kind; choose 1, 2, 4 or 8" \
        "(h200: only 8; a100-40gb: also 16)"
      ;;
  esac
  # Google sells a3 machines with fewer than eight GPUs as spot machines only.
  [[ $machine != a3-highgpu-[124]g || -n $spot ]] ||
    usage_error "Google offers $machine with --spot only"
}

cost_line() {
  local what="$devices x $kind on $hosts host(s)" dollars discount=''
  if [[ -n $spot ]]; then
    discount='; spot machines cost a third to two thirds of that, by month and zone'
  fi
  dollars=$(awk -v n="$devices" -v p="$price" \
    'BEGIN { printf "%.2f", n * p }')
  echo "$what: about \$$dollars an hour on demand (\$$price per" \
    "device-hour, approximate list price of $PRICES_OF; check" \
    "cloud.google.com/pricing before a long run)$discount"
}

# Prints `export` lines for the machines' environment.
environment() {
  "${family}_flags"
  if [[ $family == gpu ]]; then
    # Hosts talk TCP over gVNIC, where a few sockets fill the link; NVLink
    # connects the GPUs of a host. (Google's RDMA and TCPX plug-ins set their
    # own variables where a cluster has them.)
    exported NCCL_SOCKET_NTHREADS 4
    exported NCCL_NSOCKS_PERTHREAD 4
  fi
}
