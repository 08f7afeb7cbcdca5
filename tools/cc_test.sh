#!/usr/bin/env bash
# Runs the C++ tests with Bazel; arguments go to `bazel test`, by default on all tests. Skipped
# without googletest.
set -euo pipefail
cd "$(dirname "$0")/.."
if [ ! -e /usr/include/gtest/gtest.h ]; then
  echo "C++ tests SKIPPED: googletest is not installed (apt-get install libgtest-dev)" >&2
  exit 0
fi
export PYTHON_BIN_PATH=$PWD/.venv/bin/python
case "$*" in *//*) ;; *) set -- "$@" //tests/cc:all ;; esac
"$(tools/bazel.sh)" --max_idle_secs=300 test "$@"
