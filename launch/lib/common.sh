# shellcheck shell=bash
# Messages and paths of the launch scripts, which set $root.

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

# Prints a config FILE[:ARG] with the file's absolute path. The file is searched
# in the current folder first, then in the repository.
absolute_config() {
  local file=${1%%:*}
  local argument=${1#"$file"}
  # shellcheck disable=SC2154 # the script that sources this file sets root
  if [[ $file != /* && ! -e $file ]]; then file=$root/$file; fi
  [[ -e $file ]] || usage_error "there is no config file ${1%%:*}"
  echo "$(cd "$(dirname "$file")" && pwd -P)/$(basename "$file")$argument"
}
