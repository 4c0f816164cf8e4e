#!/usr/bin/env bash
# Makes .venv with the project (editable), its development tools, and the versions of constraints.txt.
#
# Quick when nothing changed: a stamp holds what the environment was made from. Safe to interrupt: without the
# stamp, the next call finishes or replaces what is there. PYTHON names the interpreter to use (3.11 or newer).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

VENV=.venv
STAMP=$VENV/made-from

say() { printf 'environment: %s\n' "$*"; }
die() { printf 'environment: %s\n' "$*" >&2; exit 2; }

new_enough() { command -v "$1" >/dev/null && "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }

find_python() {
  local name
  for name in ${PYTHON:-python3.13 python3.12 python3.11 python3.14 python3 /usr/bin/python3}; do
    if new_enough "$name"; then command -v "$name"; return; fi
  done
  die "no Python 3.11 or newer found${PYTHON:+ at $PYTHON}; on Debian: apt-get install python3 python3-venv, else https://www.python.org/downloads/"
}

make_venv() {
  local python=$1 package said
  if ! "$python" -c 'import venv, ensurepip' 2>/dev/null; then
    # Debian keeps this part of Python in a package of its own, named after the version.
    package=$("$python" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')
    if [[ $(id -u) == 0 ]] && command -v apt-get >/dev/null; then
      say "installing $package"
      said=$({ apt-get -qq update &&
        DEBIAN_FRONTEND=noninteractive apt-get -qq -y --no-install-recommends install "$package"; } 2>&1 </dev/null) ||
        die "could not install $package: $said"
    else
      die "$python cannot make virtual environments; run: sudo apt-get install $package"
    fi
  fi
  rm -rf "$VENV"
  "$python" -m venv "$VENV"
}

# uv is many times quicker than pip, but does not read pip's configuration: where it fails, pip has its turn.
# Bytecode is made now, as pip does: where Python is told to write none, each of the many processes of an Airflow would
# compile all that it imports.
install_project() {
  local wanted=(--editable '.[dev]' --constraint constraints.txt)
  "$VENV/bin/python" -m pip install --quiet --disable-pip-version-check --constraint constraints.txt uv &&
    VIRTUAL_ENV=$PWD/$VENV "$VENV/bin/uv" pip install --quiet --compile-bytecode "${wanted[@]}" ||
    "$VENV/bin/python" -m pip install --disable-pip-version-check "${wanted[@]}"
}

made_from() {
  {
    cat pyproject.toml constraints.txt
    "$VENV/bin/python" -VV
    pwd -P
  } | cksum
}

if ! new_enough "$VENV/bin/python" || [[ ! -x $VENV/bin/pip ]]; then
  python=$(find_python)
  say "making $VENV with $("$python" -V) ($python)"
  make_venv "$python"
fi
if [[ $(made_from) != "$(cat "$STAMP" 2>/dev/null)" ]]; then
  say "installing the project and its tools into $VENV"
  rm -f "$STAMP"
  install_project
  made_from >"$STAMP"
fi
