#!/usr/bin/env bash
# Builds the documentation site from docs/, and shows it.
set -euo pipefail

usage() {
  cat << 'END'
usage: launch/docs.sh [--serve] [--port=N]

Sets up .venv and builds the site from docs/ into build/docs; a warning is an
error. Open build/docs/index.html, or let --serve show it in a browser at
http://127.0.0.1:8001 (--port=N: at another port), until Ctrl-C.
END
}

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
source "$root/launch/lib/common.sh"

serve='' port=8001
for arg in "$@"; do
  case $arg in
    --serve) serve=1 ;;
    --port=?*) port=${arg#*=} ;;
    -h | --help) usage && exit 0 ;;
    *) usage_error "unknown argument '$arg'" ;;
  esac
done
[[ $port =~ ^[0-9]+$ ]] || usage_error "--port=$port is not a number"

cd "$root"
launch/setup.sh train,docs
export PATH=$root/.venv/bin:$PATH
# No program of the docs computes anything: an accelerator stays free.
export JAX_PLATFORMS=cpu
# All pages anew (-E), since those that are not read again tell no warnings.
python -m sphinx -b html -E -j auto -W --keep-going -q docs build/docs
say "the site is in build/docs/index.html"
if [[ -n $serve ]]; then
  exec python -m http.server --directory build/docs --bind 127.0.0.1 "$port"
fi
