#!/usr/bin/env bash
# What needs no server: linters, types, import rules, unit tests.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
scripts/environment.sh
export PATH="$PWD/.venv/bin:$PATH"

ruff check .
ruff format --check .
lint-imports
mypy
python -m pytest -q -n 2 -m 'not integration and not e2e and not slow' "$@"
