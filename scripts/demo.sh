#!/usr/bin/env bash
# One experiment from end to end on this machine alone: see demo.py.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
scripts/environment.sh
exec .venv/bin/python -m scripts.demo "$@"
