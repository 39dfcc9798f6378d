#!/usr/bin/env bash
# Sets everything up, then runs the linters, the type checker and the tests.
set -euo pipefail

usage() {
  cat << 'END'
usage: launch/test.sh [PYTEST ARGUMENTS]

Sets up .venv, then runs ruff, the type checker and pytest. Without arguments
every test runs, slow ones too; -m 'not slow' leaves those out.
END
}

case ${1:-} in
  -h | --help) usage && exit 0 ;;
esac
cd "$(dirname "${BASH_SOURCE[0]}")/.."
launch/setup.sh train,test
bin=.venv/bin

run() {
  printf '==> %s\n' "${*#"$bin/"}"
  "$@"
}

run "$bin/ruff" check .
run "$bin/ruff" format --check .
if grep -q '^\[tool\.pyrefly' pyproject.toml; then
  run "$bin/pyrefly" check
fi
run "$bin/python" -m pytest "$@"
