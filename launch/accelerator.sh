#!/usr/bin/env bash
# Checks and measures everything on the GPU or TPU of this machine.
set -euo pipefail

usage() {
  cat << 'END'
usage: launch/accelerator.sh [flags]

Compares results with a CPU's, interrupts and resumes a training, and times
sampling and training of all sizes of network, what matters most first. Only
jax (in the build for this machine), flax, optax, orbax and chex must be
installed; parts that need more are left out, and say so. The same command goes
on where the last one ended, and leaves out what is done.

  --minutes=N     minutes until it ends (default: 25)
  --out=DIR       folder of the results (default: runs/accelerator), of which
                  accelerator.md is the page, accelerator.json holds its numbers
  --wheels=DIR    first installs the wheels of this folder, without a network,
                  for this command alone
  --parts=A,B     takes these parts alone; accelerator.md names them
  --tiny          a check of this command with the smallest networks, also on a
                  CPU; its folder is runs/accelerator-tiny
  PYTHON=...      the Python to use (default: .venv's, if there is one)

Exit codes: 0 all that fitted into the time went well, 1 a check or a part did
not, 2 bad arguments.
END
}

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
source "$root/launch/lib/common.sh"

minutes=25 out='' wheels='' tiny='' more=()
for arg in "$@"; do
  case $arg in
    --minutes=?*) minutes=${arg#*=} ;;
    --out=?*) out=${arg#*=} ;;
    --wheels=?*) wheels=${arg#*=} ;;
    --parts=?*) more+=("$arg") ;;
    --tiny) tiny=-tiny && more+=("$arg") ;;
    -h | --help) usage && exit 0 ;;
    *) usage_error "unknown argument '$arg'" ;;
  esac
done
[[ $minutes =~ ^[0-9]+(\.[0-9]+)?$ ]] ||
  usage_error "--minutes=$minutes is not a number"
[[ -z $wheels || -d $wheels ]] || usage_error "there is no folder $wheels"

python=${PYTHON:-$root/.venv/bin/python}
if [[ -z ${PYTHON:-} && ! -x $python ]]; then python=python3; fi
python=$(command -v "$python") || die "there is no Python '$python'"
if [[ $python == [!/]* ]]; then python=$PWD/$python; fi
out=${out:-$root/runs/accelerator$tiny}
mkdir -p "$out"
out=$(cd "$out" && pwd -P)

path=$root
if [[ -n $wheels ]]; then
  "$python" -m pip install --quiet --disable-pip-version-check --no-index \
    --no-deps --no-compile --upgrade --target "$out/packages" "$wheels"/*.whl ||
    die "the wheels in $wheels could not be installed"
  path+=:$out/packages
fi
export PYTHONPATH=$path${PYTHONPATH:+:$PYTHONPATH}
export JAX_COMPILATION_CACHE_DIR=${JAX_COMPILATION_CACHE_DIR-$root/.cache/jax}

cd "$root"
exec "$python" -m scm_jax.acceptance.main --minutes="$minutes" --out="$out" \
  ${more[@]+"${more[@]}"}
