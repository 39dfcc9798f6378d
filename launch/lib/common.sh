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
  (($#)) || return 0 # printf would print '' for no words
  words=$(printf '%q ' "$@")
  echo "${words% }"
}

# Prints the path of a config that may be a bare name, as scm-jax takes it: NAME
# is configs/NAME.py.
config_path() {
  if [[ $1 =~ ^[[:alnum:]_]+$ && ! -f $1 ]]; then
    echo "configs/$1.py"
  else
    echo "$1"
  fi
}

# Prints an override whose value is a path in the current folder with the absolute
# path, because commands run in the repository; any other as it is.
absolute_override() {
  local value=${1#*=}
  case $1 in
    --config.guide=snapshots/*) value='' ;; # the teacher's
    --config.teacher=* | --config.start=* | --config.guide=* | \
      --config.data.data_dir=* | --config.data.autoencoder=*)
      [[ -e $value ]] || value=''
      ;;
    --config.evaluate.reference=*) # a file, or a dataset's name
      [[ -f $value ]] || value=''
      ;;
    *) value='' ;;
  esac
  if [[ $PWD != "$root" && $value == [!/]* ]]; then
    echo "${1%%=*}=$PWD/${value#./}"
  else
    echo "$1"
  fi
}

# Prints a config FILE[:ARG] with the file's absolute path. The file is searched
# in the current folder first, then in the repository.
absolute_config() {
  local given=${1%%:*} file
  local argument=${1#"$given"}
  file=$(config_path "$given")
  # shellcheck disable=SC2154 # the script that sources this file sets root
  if [[ $file != /* && ! -e $file ]]; then file=$root/$file; fi
  [[ -e $file ]] || usage_error "there is no config file $given"
  echo "$(cd "$(dirname "$file")" && pwd -P)/$(basename "$file")$argument"
}
