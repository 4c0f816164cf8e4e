#!/usr/bin/env bash
# All checks and tests, on real servers. What this starts of the test bed, it stops at the end (KEEP=1 leaves it up).
# Arguments go to pytest. CHECKED=1: `make check` has just passed and is not done again.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
scripts/environment.sh
export PATH="$PWD/.venv/bin:$PATH"

mine=() beside=()
for part in ssh dovecot slurm gridengine postgres docker; do
  scripts/testbed.sh status "$part" >/dev/null || mine+=("$part")
done
finish() {
  for stream in "${beside[@]}"; do pkill -P "$stream" || true; done
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
# Most tests that take long wait most of their time, so three streams of them run beside each other. None disturbs a
# server that another one uses. The first is shown as it goes, the others when they are over.
# Those through Airflow take longest; the two that start one of their own go with the others.
end_to_end() {
  python -m pytest -q --durations=10 -m e2e --ignore tests/e2e/test_kills.py --ignore tests/e2e/test_airflow_smoke.py
}
integration() {
  local ended=0
  python -m pytest -q -n 3 --durations=10 -m integration || ended=1
  python -m pytest -q tests/e2e/test_airflow_smoke.py || ended=1
  return $ended
}
kills_and_jobs() {
  local ended=0
  python -m pytest -q tests/e2e/test_kills.py || ended=1
  python -m pytest -q -n 2 -m 'slow and not integration' || ended=1
  return $ended
}

mkdir -p build
[[ ${CHECKED:-0} == 1 ]] || scripts/check.sh
ended=0
for stream in end_to_end kills_and_jobs; do
  $stream >"build/test-$stream.log" 2>&1 </dev/null &
  beside+=($!)
done
integration || ended=1
for stream in end_to_end kills_and_jobs; do
  wait "${beside[0]}" || ended=1
  beside=("${beside[@]:1}")
  cat "build/test-$stream.log"
done
exit "$ended"
