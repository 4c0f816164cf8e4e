#!/usr/bin/env bash
# The bench, on the test bed: see benchmarks/run.py. What this starts of the bed, it stops at the end.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
scripts/environment.sh
export PATH="$PWD/.venv/bin:$PATH"
export PYTHONDONTWRITEBYTECODE= # or each process compiles all it imports anew

mine=()
for part in ssh dovecot slurm postgres; do
  scripts/testbed.sh status "$part" >/dev/null || mine+=("$part")
done
finish() {
  if [[ ${KEEP:-0} != 1 && ${#mine[@]} -gt 0 ]]; then scripts/testbed.sh down "${mine[@]}" >/dev/null || true; fi
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
scripts/testbed.sh up ssh dovecot slurm postgres

python -m benchmarks.run "$@"
