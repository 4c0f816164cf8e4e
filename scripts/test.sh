#!/usr/bin/env bash
# All checks and tests, on real servers. What this starts of the test bed, it stops at the end (KEEP=1 leaves it up).
# Arguments go to pytest. CHECKED=1: `make check` has just passed and is not done again.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
scripts/environment.sh
export PATH="$PWD/.venv/bin:$PATH"

mine=()
for part in ssh dovecot slurm gridengine postgres docker; do
  scripts/testbed.sh status "$part" >/dev/null || mine+=("$part")
done
finish() {
  if [[ -n ${beside:-} ]]; then pkill -P "$beside" || true; fi
  if [[ ${KEEP:-0} != 1 && ${#mine[@]} -gt 0 ]]; then scripts/testbed.sh down "${mine[@]}" >/dev/null || true; fi
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
scripts/testbed.sh up

if [[ $# -gt 0 ]]; then
  python -m pytest "$@"
  exit
fi
# Most tests on servers wait most of their time, so two streams of them run beside each other. What kills a server
# that both use runs when they are over, beside what needs no server.
streams() { # COMMAND beside COMMAND: both, and whether both passed
  local log=build/test-beside.log first=0 second=0
  "$1" >"$log" 2>&1 </dev/null &
  beside=$!
  "$2" || second=$?
  wait "$beside" || first=$?
  beside=
  cat "$log"
  [[ $first == 0 && $second == 0 ]]
}
integration() { python -m pytest -q --durations=10 -m integration; }
end_to_end() { python -m pytest -q --durations=10 -m 'e2e and not kills'; }
local_jobs() { python -m pytest -q -n 3 -m 'batch or (sweep and not integration)'; }
kills() { python -m pytest -q --durations=3 -m kills; }

mkdir -p build
[[ ${CHECKED:-0} == 1 ]] || scripts/check.sh
ended=0
streams integration end_to_end || ended=1
streams local_jobs kills || ended=1
exit "$ended"
