#!/usr/bin/env bash
# Makes .venv in the repository and installs scm_jax[EXTRAS] into it.
set -euo pipefail

usage() {
  cat << 'END'
usage: launch/setup.sh [EXTRAS]

Creates the virtual environment .venv in the repository and installs the project
there in editable form with EXTRAS (default: train; several: train,test), and the
build of JAX for this machine: with an NVIDIA driver CUDA's, on a TPU VM the
TPU's, else the CPU's. pip runs only if pyproject.toml, the extras, the hardware
or the environment's Python have changed. The command can be interrupted and run
again at any time.

  PYTHON=...      the Python to use (default: 3.12, 3.11, both tested, or 3.13)
  SCM_DEVICE=...  cpu, cuda (or cuda12, cuda13) or tpu, whatever hardware is here
END
}

say() { printf 'setup: %s\n' "$*" >&2; }
die() { say "$*" && exit 1; }

case ${1:-train} in
  -h | --help) usage && exit 0 ;;
  -*) say "unknown flag $1; see launch/setup.sh --help" && exit 2 ;;
esac
extras=${1:-train}
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
source "$root/launch/lib/hardware.sh"
cd "$root"
venv=$root/.venv
stamp=$venv/scm-jax-installed # fingerprint of the last complete installation
log=$root/.cache/setup.log

# Returns whether a Python is new enough and can make environments. venv needs
# ensurepip, which is a package of its own in Debian.
suitable() {
  "$1" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' \
    > /dev/null 2>&1
}

find_python() {
  local candidate
  if [[ -n ${PYTHON:-} ]]; then
    suitable "$PYTHON" || die "PYTHON=$PYTHON is not a Python 3.11 or newer" \
      "with venv and ensurepip"
    echo "$PYTHON"
    return
  fi
  for candidate in python3.12 python3.11 python3.13 python3 python; do
    if suitable "$candidate"; then
      echo "$candidate"
      return
    fi
  done
  die "no Python 3.11 or newer with venv found; install one" \
    "(Debian: python3 and python3-venv) or set PYTHON=/path/to/python3"
}

version_of() {
  "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2> /dev/null
}

# Returns whether .venv is complete: after an interruption it has a Python but no
# pip.
usable_venv() {
  [[ -x $venv/bin/python ]] &&
    "$venv/bin/python" -c 'import pip' > /dev/null 2>&1 &&
    [[ -z ${PYTHON:-} ||
      $(version_of "$PYTHON") == "$(version_of "$venv/bin/python")" ]]
}

# Prints one line with everything that an installation depends on. An editable
# installation and the scripts in .venv/bin also contain the folder's path.
fingerprint() {
  "$venv/bin/python" - "$root" << 'END'
import hashlib, pathlib, sys
project = (pathlib.Path(sys.argv[1]) / "pyproject.toml").read_bytes()
print(hashlib.sha256(project).hexdigest(), sys.version.split()[0], sys.argv[1])
END
}

installed_extras() { sed -n 2p "$stamp" 2> /dev/null || true; }

union() { tr ',' '\n' <<< "$1,$2" | sed '/^$/d' | sort -u | paste -s -d , -; }

# Runs a command with its output in the log; shows the seconds on a terminal.
quietly() {
  local what=$1 job code=0
  shift
  "$@" > "$log" 2>&1 < /dev/null &
  job=$!
  trap 'kill "$job" 2> /dev/null; say "interrupted"; exit 130' INT TERM
  if [[ -t 2 ]]; then
    while kill -0 "$job" 2> /dev/null; do
      printf '\rsetup: %s ... %d s: %-30.30s' "$what" "$SECONDS" \
        "$(tail -n 1 "$log" | tr -d '\r')" >&2
      sleep 1
    done
    printf '\r\033[K' >&2
  else
    say "$what ..."
  fi
  wait "$job" || code=$?
  trap - INT TERM
  return "$code"
}

why() { grep -i '^error' "$log" | tail -n 1 || true; }

# Returns whether a list of extras names one of these.
names() { [[ ,$1, =~ ,($2), ]]; }

main() {
  local python wanted reason hardware installed other
  mkdir -p "$root/.cache"
  # Of two scripts at once, the second waits and then finds everything installed.
  if command -v flock > /dev/null; then
    exec 9> "$root/.cache/setup.lock"
    flock 9
  fi
  installed=$(installed_extras)
  hardware=$(hardware_extra 2> >(sed 's/^/setup: /' >&2)) || exit
  # The builds for CUDA 12 and 13 exclude each other. A newer driver also runs
  # the older one.
  if [[ $hardware == cuda13 && ${SCM_DEVICE:-} != cuda13 ]] &&
    names "$extras,$installed" 'cuda12|plan-gpu'; then
    hardware=cuda12
  fi
  if [[ $hardware == cuda12 ]]; then other=cuda13; else other='cuda12|plan-gpu'; fi
  if [[ $hardware == cuda1? ]] && names "$installed" "$other"; then
    say "making .venv anew, for CUDA ${hardware#cuda}"
    rm -rf "$venv"
    installed=$(tr ',' '\n' <<< "$installed" | sed -E "/^($other)\$/d" |
      paste -s -d , -)
  fi
  wanted=$(union "$extras,$hardware" "$installed")
  if usable_venv &&
    [[ $(cat "$stamp" 2> /dev/null) == "$(fingerprint)"$'\n'"$wanted" ]]; then
    return
  fi
  if ! usable_venv; then
    python=$(find_python)
    quietly "making .venv with $python" "$python" -m venv --clear "$venv" ||
      die "could not make $venv: $(tail -n 1 "$log")"
  fi
  rm -f "$stamp"
  quietly "installing scm_jax[$wanted]" \
    "$venv/bin/python" -m pip install --disable-pip-version-check --no-input \
    --progress-bar off -e ".[$wanted]" || {
    reason=$(why)
    die "pip failed: ${reason:-see the log} (full log: $log); run again to retry"
  }
  printf '%s\n%s\n' "$(fingerprint)" "$wanted" > "$stamp.new"
  mv "$stamp.new" "$stamp"
  say "scm_jax[$wanted] is installed in .venv ($SECONDS s)"
}

main
