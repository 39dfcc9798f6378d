# shellcheck shell=bash
# What Google calls the machines of a target, what they cost, and the flags of
# NCCL and XLA on them. Targets are those of `scm-jax plan`: KIND:TOPOLOGY for
# TPUs, KIND:HOSTSxDEVICES for GPUs.

# Approximate list prices in US dollars for a device and hour on demand, in the
# cheapest regions of the United States.
readonly PRICES_OF='mid-2025'

# One line a kind: price, the TPU's type and runtime (- for GPUs), Kubernetes'
# name of the node.
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

# Sets kind, family (tpu or gpu), topology, devices, hosts and per_host from a
# target, and what Google calls it. Says what is wrong with it otherwise.
parse_accelerator() {
  kind=${1%%:*} topology=${1#*:}
  read -r price tpu_type runtime node <<< "$(kind_row "$kind")"
  [[ $1 == *:* && -n $price ]] || {
    echo "--accelerator=$1 is none of KIND:TOPOLOGY (v5e, v5p, v6e) and" \
      "KIND:HOSTSxDEVICES (a100-40gb, a100-80gb, h100-80gb, h200)"
    return 1
  }
  family=gpu
  if [[ $tpu_type != - ]]; then family=tpu; fi
  "parse_$family"
}

parse_tpu() {
  local flat='^(1x1|2x2|2x4|4x4|4x8|8x8|8x16|16x16)$'
  local small='^(2x2x1|2x2x2|2x2x4|2x4x4)$' cubes='^([0-9]+x){2}[0-9]+$'
  local side x y z
  if [[ $kind != v5p ]]; then
    [[ $topology =~ $flat ]] || {
      echo "$kind has no slice $topology; one of 1x1, 2x2, 2x4, 4x4, 4x8," \
        "8x8, 8x16, 16x16"
      return 1
    }
  elif [[ ! $topology =~ $small ]]; then
    [[ $topology =~ $cubes ]] || topology=1
    for side in ${topology//x/ }; do
      if ((side == 0 || side % 4)); then
        echo "v5p has no such slice; one of 2x2x1, 2x2x2, 2x2x4, 2x4x4, or" \
          "three multiples of 4 (4x4x4, 4x4x8, ...)"
        return 1
      fi
    done
  fi
  IFS=x read -r x y z <<< "$topology"
  devices=$((x * y * ${z:-1}))
  # Slices of up to 8 chips of v5e and v6e are one host; others have 4 a host.
  if [[ $kind != v5p ]] && ((devices <= 8)); then
    per_host=$devices
  else
    per_host=4
  fi
  hosts=$((devices / per_host))
}

parse_gpu() {
  [[ $topology =~ ^([1-9][0-9]*)x([1-9][0-9]*)$ ]] || {
    echo "$kind:$topology is not $kind:HOSTSxDEVICES, as in $kind:2x8"
    return 1
  }
  hosts=${BASH_REMATCH[1]} per_host=${BASH_REMATCH[2]}
  devices=$((hosts * per_host))
  case $kind:$per_host in
    a100-40gb:[1248]) machine=a2-highgpu-${per_host}g ;;
    a100-40gb:16) machine=a2-megagpu-16g ;;
    a100-80gb:[1248]) machine=a2-ultragpu-${per_host}g ;;
    h100-80gb:[1248]) machine=a3-highgpu-${per_host}g ;;
    h200:8) machine=a3-ultragpu-8g ;;
    *)
      echo "no machine has $per_host of $kind; 1, 2, 4 or 8 (h200: 8;" \
        "a100-40gb also 16)"
      return 1
      ;;
  esac
  # Google sells the parts of an eight as spot only.
  if [[ $machine == a3-highgpu-[124]g && -z ${spot:-} ]]; then
    echo "$machine is to be had with --spot only"
    return 1
  fi
}

cost_line() {
  local what="$devices x $kind on $hosts host(s)" dollars discount=''
  if [[ -n $spot ]]; then
    discount='; spot costs a third to two thirds of it, by month and zone'
  fi
  dollars=$(awk -v n="$devices" -v p="$price" \
    'BEGIN { printf "%.2f", n * p }')
  echo "$what: about \$$dollars an hour on demand (\$$price a" \
    "device-hour, approximate list price of $PRICES_OF; look it up at" \
    "cloud.google.com/pricing before a long run)$discount"
}

# `export` lines for the machines' environment.
environment() {
  "${family}_flags"
  if [[ $family == gpu ]]; then
    # Between hosts plain TCP over gVNIC: a few sockets fill the link. NVLink
    # carries what stays on a host. (Google's RDMA and TCPX plug-ins set their
    # own variables where a cluster has them.)
    exported NCCL_SOCKET_NTHREADS 4
    exported NCCL_NSOCKS_PERTHREAD 4
  fi
}
