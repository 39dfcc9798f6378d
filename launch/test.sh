#!/usr/bin/env bash
# Sets everything up, then runs the linters, the type checker and the tests.
set -euo pipefail

usage() {
  cat << 'END'
usage: launch/test.sh [PYTEST ARGUMENTS]

Sets up .venv, then runs ruff, the type checker and pytest, in as many processes
as there are cores (-n 0: in one). Without arguments all but the slow tests run.
-m unit runs the quick ones alone; -m '' runs all, as .ci/run does; -m gpu those
that need a GPU. Compiled programs are kept in .cache/jax for the next time.
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
# tests/conftest.py gives the tests of a folder to one process.
run "$bin/python" -m pytest -n logical -m 'not slow' "$@"
