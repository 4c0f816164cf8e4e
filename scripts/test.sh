#!/usr/bin/env bash
# All checks and tests, on real servers. What this starts of the test bed, it stops at the end (KEEP=1 leaves it up).
# Arguments go to pytest. CHECKED=1: `make check` has just passed and is not done again.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
scripts/environment.sh
export PATH="$PWD/.venv/bin:$PATH"
export PYTHONDONTWRITEBYTECODE= # or each process compiles all it imports anew

mine=() beside=()
for part in ssh dovecot slurm gridengine postgres docker; do
  scripts/testbed.sh status "$part" >/dev/null || mine+=("$part")
done
finish() {
  local left=60 tests=()
  for stream in "${beside[@]}"; do
    mapfile -O "${#tests[@]}" -t tests < <(pgrep -P "$stream" || true)
    kill "$stream" 2>/dev/null || true # or it would go on with its next
  done
  if [[ ${#tests[@]} -gt 0 ]]; then
    # As Ctrl-C would: they stop what they started.
    kill -INT "${tests[@]}" 2>/dev/null || true
    while ((left-- > 0)) && kill -0 "${tests[@]}" 2>/dev/null; do sleep 1; done
    kill "${tests[@]}" 2>/dev/null || true
  fi
  if [[ ${KEEP:-0} != 1 && ${#mine[@]} -gt 0 ]]; then scripts/testbed.sh down "${mine[@]}" >/dev/null || true; fi
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
scripts/testbed.sh up
export TESTBED_IS_UP=1 # a second look could take a busy server for a broken one, and start it anew

if [[ $# -gt 0 ]]; then
  python -m pytest "$@"
  exit
fi
# Most tests that take long wait most of their time, so three streams of them run beside each other. None disturbs a
# server that another one uses. The first is shown as it goes, the others when they are over.
# Those through Airflow take longest; the three that start one of their own go with the others.
end_to_end() {
  python -m pytest -q --durations=10 tests/e2e --ignore tests/e2e/test_kills.py --ignore tests/e2e/test_airflow_smoke.py \
    --ignore tests/e2e/test_demo.py
}
integration() {
  local ended=0
  python -m pytest -q -n 3 --durations=10 tests/integration || ended=1
  python -m pytest -q tests/e2e/test_airflow_smoke.py tests/e2e/test_demo.py || ended=1
  return $ended
}
kills_and_jobs() {
  local ended=0
  python -m pytest -q tests/e2e/test_kills.py || ended=1
  python -m pytest -q -n 2 --durations=10 -m slow tests/unit tests/contract || ended=1
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
