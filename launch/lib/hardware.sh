# shellcheck shell=bash
# Finds the build of JAX for this machine: an extra of pyproject.toml. Each
# function can be given another root of the file system to look in.

# Prints cuda12, cuda13 or tpu, or nothing for the CPU's build. SCM_DEVICE, if it
# is set, decides instead of the hardware. A message on standard error says why a
# GPU that is here cannot be used. Returns 2 for an unknown SCM_DEVICE.
hardware_extra() {
  local root=${1:-} driver
  case ${SCM_DEVICE:-} in
    cpu) ;;
    cuda12 | cuda13 | tpu) echo "$SCM_DEVICE" ;;
    cuda)
      # Without a driver, as on the login node of a cluster, the build that the
      # older drivers can run, too.
      driver=$(nvidia_driver "$root") || driver='525 7.5'
      # shellcheck disable=SC2086 # two words
      cuda_extra $driver
      ;;
    '')
      [[ $OSTYPE == linux* ]] || return 0
      if driver=$(nvidia_driver "$root"); then
        # shellcheck disable=SC2086 # two words
        cuda_extra $driver
      elif has_tpu "$root"; then
        echo tpu
      fi
      ;;
    *)
      echo "SCM_DEVICE=$SCM_DEVICE is none of cpu, cuda, cuda12, cuda13 and tpu" >&2
      return 2
      ;;
  esac
}

# Prints the version of NVIDIA's driver and the least compute capability of the
# GPUs, such as `580.159.04 9.0`; fails where there is no GPU that works.
nvidia_driver() {
  local root=${1:-} tool lines driver capability least='' found=''
  local version='^[0-9]+(\.[0-9]+)*$'
  for tool in nvidia-smi "$root"/usr/{lib/wsl/lib,local/nvidia/bin}/nvidia-smi; do
    if command -v "$tool" > /dev/null 2>&1; then
      found=$tool
      break
    fi
  done
  [[ -n $found ]] || return 1
  if ! lines=$("$found" --query-gpu=driver_version,compute_cap \
    --format=csv,noheader 2> /dev/null); then
    echo 'nvidia-smi fails, so that JAX will not use a GPU' >&2
    return 1
  fi
  while IFS=', ' read -r driver capability; do
    [[ $driver =~ $version && $capability =~ $version ]] || continue
    if [[ -z $least ]] || ! at_least "$capability" "$least"; then
      least=$capability
    fi
    found=$driver
  done <<< "$lines"
  if [[ -z $least ]]; then
    [[ -z $lines || $lines == 'No devices'* ]] ||
      echo "nvidia-smi answers '${lines%%$'\n'*}', so that JAX will not use a GPU" >&2
    return 1
  fi
  echo "$found $least"
}

# Returns whether a version is at least another; two numbers of each count.
at_least() {
  local a b
  IFS=. read -r -a a <<< "$1"
  IFS=. read -r -a b <<< "$2"
  ((10#${a[0]} > 10#${b[0]} ||
    (10#${a[0]} == 10#${b[0]} && 10#${a[1]:-0} >= 10#${b[1]:-0})))
}

# Prints the CUDA build that a driver and a compute capability can run: JAX's
# installation guide names the least versions of both.
cuda_extra() {
  local driver=$1 capability=$2
  if at_least "$driver" 580 && at_least "$capability" 7.5; then
    echo cuda13
  elif at_least "$driver" 525 && at_least "$capability" 5.2; then
    echo cuda12
  else
    echo "JAX needs NVIDIA's driver 525 and compute capability 5.2 or newer," \
      "and finds $driver and $capability here; it will use the CPU" >&2
  fi
}

# Returns whether this is a Cloud TPU VM. Like JAX, it looks at the devices on
# the PCI bus, and asks Google's metadata server on Google's machines.
has_tpu() {
  local root=${1:-} device class name='' server=${GCE_METADATA_IP:-}
  compgen -G "$root/dev/accel[0-9]*" > /dev/null && return
  for device in "$root"/sys/bus/pci/devices/*; do
    [[ -r $device/vendor && $(< "$device/vendor") == 0x1ae0 ]] || continue
    class=$(< "$device/class")
    # Google's disks and network cards are no TPUs.
    [[ $class == 0x01* || $class == 0x02* ]] || return 0
  done
  if [[ -r $root/sys/class/dmi/id/product_name ]]; then
    name=$(< "$root/sys/class/dmi/id/product_name")
  fi
  if [[ -z $server ]]; then
    [[ $name == *Google* ]] || return 1
    server=metadata.google.internal
  fi
  command -v curl > /dev/null && curl --silent --fail --noproxy '*' \
    --max-time 3 --header 'Metadata-Flavor: Google' --output /dev/null \
    "http://$server/computeMetadata/v1/instance/attributes/agent-worker-number"
}
