#!/usr/bin/env bash
# What needs no server: linters, types, import rules, unit tests.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
scripts/environment.sh
export PATH="$PWD/.venv/bin:$PATH"
export PYTHONDONTWRITEBYTECODE= # or each process compiles all it imports anew

ruff check .
ruff format --check .
# Beside the tests: they use one core, and wait for nobody.
mkdir -p build
{ lint-imports && mypy; } >build/check-types.log 2>&1 </dev/null &
ended=0
[[ $# -gt 0 ]] || set -- tests/unit tests/contract
python -m pytest -q -n 2 -m 'not integration and not e2e and not slow' "$@" || ended=$?
wait $! || ended=1
cat build/check-types.log
exit "$ended"
