# shellcheck shell=bash
# Makes machines, deletes them, and makes preempted machines again.

# Makes the machines. What a failed attempt made is deleted again.
make_machines() {
  local code=0 why
  remember
  trap 'clean_up; exit 130' INT TERM
  "${backend}_create" || code=$?
  trap - INT TERM
  why=$reason
  if ((code)) && [[ $reason != exists ]]; then clean_up; fi
  reason=$why
  return "$code"
}

clean_up() {
  if remove_machines; then
    rm -f "$scratch/flags"
    warn 'nothing is left running'
  fi
}

# Deletes the machines; fails and names them if any may be left.
remove_machines() {
  "${backend}_remove" || true
  nothing_left
}

nothing_left() {
  local left
  left=$("${backend}_left") || left=$name
  [[ -n $left ]] || return 0
  warn "still there and costing money: ${left//$'\n'/, };" \
    "delete it with launch/gcp.sh delete --name=$name"
  return 1
}

# Checks on the run once. Returns 0 when the run has ended, 1 to go on.
look() {
  local state
  ended=$(outcome) && state=$("${backend}_state") || return 1
  [[ -z $ended ]] || return 0
  if [[ $state != "$last_state" ]]; then say "$name is $state"; fi
  case $state:$last_state in
    absent:) make_machines || keep_trying ;;
    absent:*) die "$name was deleted by somebody else" ;;
    gone:*)
      last_state=''
      "${backend}_revive" || keep_trying
      ;;
    *) last_state=$state ;;
  esac
  return 1
}

# Goes on after a failure that waiting may mend, and ends the watch otherwise.
keep_trying() {
  if [[ $reason == stockout || $reason == unknown ]]; then
    say 'trying again at the next look'
    return
  fi
  nothing_left || warn 'gave up'
  exit 1
}
