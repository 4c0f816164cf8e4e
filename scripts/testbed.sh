#!/usr/bin/env bash
# The servers that the integration tests talk to, on loopback, in a folder of their own.
#
#   scripts/testbed.sh up [part…]     install what is missing (Debian, as root), start what does not answer
#   scripts/testbed.sh down [part…]   stop what `up` started
#   scripts/testbed.sh status         one line per part; exit status 1 when one does not answer
#
# Parts: ssh dovecot slurm gridengine postgres docker (all of them when none is named). A part is one file in
# scripts/testbed/, which defines NAME_packages, NAME_start, NAME_answers, NAME_stop and NAME_facts, and is in PARTS.
#
# What always holds: every file is inside the bed's own folder (TESTBED_STATE, default .testbed in the project),
# which is refused when it exists and was made by something else. No configuration of the machine is written: not
# /etc/slurm, not /var/lib/gridengine, not /etc/ssh, not the munge key, not a data base that was there. Ports are free
# ones, remembered for the next time. A process is stopped only if it was started from this folder. Any process may be
# killed at any time: `up` starts it again. testbed.json in the folder tells the tests where everything is.
set -euo pipefail
export LC_ALL=C DEBIAN_FRONTEND=noninteractive
export PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin:/usr/bin:/bin"

PROJECT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
STATE=${TESTBED_STATE:-$PROJECT/.testbed}
PARTS=(ssh dovecot slurm gridengine postgres docker)
BED_USER=airavata-test
MARK=airavata-testbed

say() { printf 'testbed: %s\n' "$*"; }
trap 'printf "testbed: failed: %s (%s line %s)\n" "$BASH_COMMAND" "${BASH_SOURCE[0]##*/}" "$LINENO" >&2' ERR
die() { printf 'testbed: %s\n' "$*" >&2; exit 2; }

# until_true SECONDS COMMAND… : repeat until it succeeds
until_true() {
  local end=$((SECONDS + $1)); shift
  until "$@" >/dev/null 2>&1; do
    ((SECONDS < end)) || return 1
    sleep 0.2
  done
}

# pid_of PIDFILE : its process id, if that process was started from this bed's folder. A zombie has neither a
# command line nor an environment, and a process id that was given away again names another folder. A grep that
# stops reading at its first find (-q) would break the pipe, which pipefail takes for a failure.
pid_of() {
  local pid
  pid=$(head -n 1 "$1" 2>/dev/null | tr -d '[:space:]') || return 1
  [[ $pid =~ ^[0-9]+$ ]] || return 1
  cat "/proc/$pid/cmdline" "/proc/$pid/environ" 2>/dev/null | tr '\0' '\n' | grep -F "$ROOM/" >/dev/null || return 1
  printf '%s\n' "$pid"
}

# stop_pid PIDFILE [SIGNAL] : end that process, for certain, if it is this bed's
stop_pid() {
  local pid
  if pid=$(pid_of "$1"); then
    kill -s "${2:-TERM}" "$pid" 2>/dev/null || true
    until_true 15 eval "! pid_of '$1'" || kill -s KILL "$pid" 2>/dev/null || true
  fi
  rm -f "$1"
}

# in_background LOG COMMAND… : a daemon that outlives this shell and its terminal
in_background() {
  local log=$1; shift
  setsid nohup "$@" >>"$log" 2>&1 </dev/null &
}

as_user() {
  local user=$1; shift
  (cd / && setpriv --reuid "$user" --regid "$(id -g "$user")" --init-groups -- "$@")
}

listens() { ss -Hltn "sport = :$1" | grep . >/dev/null; }

# port NAME FIRST PIDFILE : sets $port to the server's port: the remembered one as long as it is free or our own
# server holds it, else the first one from FIRST on that is free and not kept for another of our servers
port() {
  local file=$ROOM/ports/$1
  port=$(cat "$file" 2>/dev/null || echo "$2")
  rm -f "$file"
  if ! pid_of "$3" >/dev/null; then
    while listens "$port" || cat "$ROOM"/ports/* 2>/dev/null | grep -qx "$port"; do port=$((port + 1)); done
  fi
  printf '%s\n' "$port" >"$file"
}

packages_of() {
  local part
  for part in "$@"; do "${part}_packages"; done | xargs -n 1 | sort -u | xargs
}

missing_packages() {
  local package
  for package in $(packages_of "$@"); do
    dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null | grep -qx installed || printf '%s ' "$package"
  done
}

# The servers run as several users, which takes root; where they come from is known for Debian alone.
check_system() {
  if ! command -v dpkg-query >/dev/null; then
    die "runs on Debian as root; use a Debian 12 machine or container with these packages: $(packages_of "$@")"
  fi
  if [[ $(id -u) != 0 ]]; then
    die "not root. Run: sudo scripts/testbed.sh up   (packages still to install: $(missing_packages "$@"))"
  fi
}

# Debian starts a server when its package is installed; a policy that says no keeps the machine as it was. It names the
# process that made it: one that a kill left behind is removed by the next.
POLICY=/usr/sbin/policy-rc.d
forget_policy() {
  local pid
  pid=$(sed -n "s/^# $MARK //p" "$POLICY" 2>/dev/null || true)
  if [[ $pid == "$$" ]] || [[ -n $pid && ! -e /proc/$pid ]]; then rm -f "$POLICY"; fi
}
install_packages() {
  local missing
  missing=$(missing_packages "$@")
  forget_policy
  if [[ -z $missing ]]; then return; fi
  say "installing: $missing"
  if [[ ! -e $POLICY ]]; then
    trap forget_policy EXIT
    printf '#!/bin/sh\n# %s %s\nexit 101\n' "$MARK" "$$" >"$POLICY"
    chmod 755 "$POLICY"
  fi
  # shellcheck disable=SC2086
  if ! { apt-get -o DPkg::Lock::Timeout=600 -qq update &&
         apt-get -o DPkg::Lock::Timeout=600 -qq -y --no-install-recommends install $missing; } >"$ROOM/log/apt.log" 2>&1 </dev/null; then
    tail -n 30 "$ROOM/log/apt.log" >&2
    die "could not install: $missing"
  fi
  forget_policy
}

claim_state() {
  if [[ -e $STATE && ! -e $STATE/$MARK && -n $(ls -A "$STATE" 2>/dev/null) ]]; then
    die "$STATE exists and is not a test bed; remove it or set TESTBED_STATE"
  fi
  mkdir -p "$STATE"
  chmod 755 "$STATE"
  : >>"$STATE/$MARK"
}

# The servers run as several users, so each folder above theirs must let those pass, and a socket's path must
# stay under 108 bytes. A project in a closed or a deep folder keeps its servers' files under /var/lib instead.
find_room() {
  ROOM=$STATE
  if [[ -s $STATE/room ]]; then ROOM=$(cat "$STATE/room"); fi
}
choose_room() {
  if [[ ! -s $STATE/room ]]; then
    ROOM=$STATE
    if ((${#STATE} > 60)) || ! as_user nobody test -x "$STATE"; then
      ROOM=/var/lib/$MARK-$(printf '%s' "$STATE" | cksum | cut -d' ' -f1)
      mkdir -p "$ROOM"
      chmod 755 "$ROOM"
      say "servers' files are in $ROOM"
    fi
    printf '%s\n' "$ROOM" >"$STATE/room"
  fi
  find_room
  mkdir -p "$ROOM/ports" "$ROOM/log" "$ROOM/run" "$ROOM/etc"
  chmod 755 "$ROOM/log" "$ROOM/run" "$ROOM/etc"
}

make_user() {
  local entry
  if entry=$(getent passwd "$BED_USER"); then
    [[ $entry == *":$MARK:"* ]] || die "there is a user $BED_USER that the test bed did not make"
  else
    useradd --create-home --shell /bin/bash --comment "$MARK" "$BED_USER"
  fi
  # A new account's password field is '!', which an sshd without PAM takes for a locked account.
  if [[ $(getent shadow "$BED_USER" | cut -d: -f2) == '!' ]]; then usermod -p '*' "$BED_USER"; fi
  install -d -m 700 -o "$BED_USER" -g "$(id -gn "$BED_USER")" "$ROOM/scratch"
}

# Schedulers' daemons look their own host's name up. The line carries the bed's mark and goes with the last of them.
name_this_host() {
  getent hosts "$(hostname -s)" >/dev/null || echo "127.0.0.1 $(hostname -s) # $MARK" >>/etc/hosts
}
forget_this_host() { # PART that goes
  local part rest
  for part in slurm gridengine; do
    if [[ $part != "$1" && -e $ROOM/run/$part.up ]]; then return; fi
  done
  if grep -qs "# $MARK\$" /etc/hosts; then
    # /etc/hosts may be a mount, which can be written but not replaced
    rest=$(grep -v "# $MARK\$" /etc/hosts)
    printf '%s\n' "$rest" >/etc/hosts
  fi
}

write_facts() {
  local part new=$STATE/.testbed.json.$$
  { for part in "${PARTS[@]}"; do if [[ -e $ROOM/run/$part.up ]]; then "${part}_facts"; fi; done; } |
    python3 -c '
import json, sys
facts = dict(line.rstrip("\n").split("=", 1) for line in sys.stdin)
print(json.dumps({k: int(v) if k.endswith("_port") else v for k, v in facts.items()}, indent=2))' >"$new"
  chmod 600 "$new"
  mv "$new" "$STATE/testbed.json"
}

up() {
  local part failed=()
  check_system "$@"
  choose_room
  install_packages "$@"
  make_user
  for part in "$@"; do
    if ! "${part}_answers"; then
      say "starting $part"
      "${part}_start"
      "${part}_answers" || failed+=("$part")
    fi
    : >"$ROOM/run/$part.up"
  done
  write_facts
  if ((${#failed[@]})); then die "not answering: ${failed[*]}; see $ROOM/log"; fi
}

down() {
  local part
  find_room
  if [[ ! -d $ROOM/run ]]; then return; fi
  for part in "$@"; do
    "${part}_stop"
    rm -f "$ROOM/run/$part.up"
  done
  write_facts
}

status() {
  local part bad=0
  find_room
  for part in "$@"; do
    if [[ -d $ROOM/run ]] && "${part}_answers"; then say "up    $part"; else say "down  $part"; bad=1; fi
  done
  return $bad
}

main() {
  local command=${1:-} part
  case $command in up | down | status) shift ;; *) sed -n '2,9s/^# \{0,1\}//p' "$0"; exit 2 ;; esac
  if (($# == 0)); then
    set -- "${PARTS[@]}"
  fi
  for part in "$@"; do
    [[ " ${PARTS[*]} " == *" $part "* ]] || die "no part $part; there are: ${PARTS[*]}"
  done
  find_room
  "$command" "$@"
}

for part in "${PARTS[@]}"; do
  # shellcheck source=/dev/null
  source "$PROJECT/scripts/testbed/$part.sh"
done

# One at a time; flock keeps the lock to itself, so that no server inherits it and holds it for ever.
if [[ ${1:-} == up && $(id -u) != 0 ]]; then check_system "${PARTS[@]}"; fi
if [[ ${1:-} =~ ^(up|down)$ && -z ${TESTBED_LOCKED:-} ]]; then
  command -v flock >/dev/null || die "flock is missing: apt-get install util-linux"
  claim_state
  exec env TESTBED_LOCKED=1 flock -o "$STATE/$MARK" "${BASH_SOURCE[0]}" "$@"
fi
main "$@"
