# shellcheck shell=bash
# Messages of the launch scripts.

say() { printf '==> %s\n' "$*"; }
warn() { printf '%s: %s\n' "${0##*/}" "$*" >&2; }
die() {
  warn "$*"
  exit 1
}
usage_error() {
  warn "$*; see launch/${0##*/} --help"
  exit 2
}

# Prints a command as it would be typed.
quoted() {
  local words
  words=$(printf '%q ' "$@")
  echo "${words% }"
}
