# shellcheck shell=bash
# Machines come and go: made, cleaned up after a failure, made again.

make_machines() {
  local code=0 why
  trap 'clean_up; exit 130' INT TERM
  "${backend}_create" || code=$?
  trap - INT TERM
  why=$reason
  if ((code)) && [[ $reason != exists ]]; then clean_up; fi
  reason=$why
  return "$code"
}

# After a failed `create`: what it did make is deleted, or named.
clean_up() {
  local left
  "${backend}_remove" || true
  if left=$("${backend}_left") && [[ -z $left ]]; then
    printf 'gcp.sh: nothing is left running\n' >&2
  else
    printf 'gcp.sh: may still be there and cost money: %s; %s\n' \
      "${left//$'\n'/ }" "launch/gcp.sh delete --name=$name" >&2
  fi
}

# One look at the run. Returns 0 when it has ended, 1 to go on.
look() {
  local state
  ended=$(outcome) && state=$("${backend}_state") || return 1
  [[ -z $ended ]] || return 0
  if [[ $state != "$last_state" ]]; then say "$name is $state"; fi
  case $state:$last_state in
    absent: | gone:*) revive "$state" ;;
    absent:*) die "$name was deleted by somebody else" ;;
    *) last_state=$state ;;
  esac
  return 1
}

# Makes machines again. Where there is no room now, the next look tries again.
revive() {
  last_state=''
  if [[ $1 == absent ]]; then make_machines; else "${backend}_revive"; fi ||
    keep_trying
}

# What will not be mended by waiting ends the watch, and names what goes on.
keep_trying() {
  local left
  if [[ $reason == stockout || $reason == unknown ]]; then
    say 'trying again at the next look'
    return
  fi
  left=$("${backend}_left") || left=$name
  [[ -z $left ]] || die "gave up; still there and costing money:" \
    "${left//$'\n'/ }; launch/gcp.sh delete --name=$name"
  exit 1
}
