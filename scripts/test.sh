#!/usr/bin/env bash
# All tests, on real servers. What this starts of the test bed, it stops at the end (KEEP=1 leaves it up).
# Arguments go to pytest.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
scripts/environment.sh
export PATH="$PWD/.venv/bin:$PATH"

mine=()
for part in ssh slurm postgres docker; do
  scripts/testbed.sh status "$part" >/dev/null || mine+=("$part")
done
finish() {
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
python -m pytest -q -n 2 -m 'not integration and not e2e'
# Tests that share the bed's servers run one after the other: some of them kill a server.
python -m pytest -q --durations=15 -m 'integration or e2e'
