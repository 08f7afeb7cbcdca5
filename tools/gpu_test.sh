#!/usr/bin/env bash
# Tests the CUDA kernels on a GPU, bit for bit against the CPU's, and measures their speed.
# usage: tools/gpu_test.sh [FOLDER]     (default: build/gpu_test)
# FOLDER gets the programs and a run.sh; copied to another x86-64 machine with an NVIDIA driver, it
# needs nothing else. Where this machine has a GPU they run at once.
set -euo pipefail
cd "$(dirname "$0")/.."
folder=${1:-build/gpu_test}
if ! command -v "${TF_LOWPREC_NVCC:-nvcc}" >/dev/null 2>&1; then
  echo "GPU tests SKIPPED: there is no nvcc (put it on the PATH, or its path into TF_LOWPREC_NVCC)" >&2
  exit 0
fi
if [ ! -e /usr/include/gtest/gtest.h ]; then
  echo "GPU tests SKIPPED: googletest is not installed (apt-get install libgtest-dev)" >&2
  exit 0
fi
export PYTHON_BIN_PATH=$PWD/.venv/bin/python
bazel=$(tools/bazel.sh)
targets=(benchmarks/gpu_kernels)
for source in tests/cc/*_gpu_test.cc; do targets+=("${source%_test.cc}_on_device"); done
labels=()
for target in "${targets[@]}"; do labels+=("//${target%/*}:${target##*/}"); done
"$bazel" --max_idle_secs=300 build "${labels[@]}"
output=$("$bazel" --max_idle_secs=300 info bazel-bin 2>/dev/null)
mkdir -p "$folder"
for target in "${targets[@]}"; do install -m 755 "$output/$target" "$folder/"; done
install -m 755 tools/gpu_run.sh "$folder/run.sh"
if ! nvidia-smi >/dev/null 2>&1; then
  echo "GPU tests NOT RUN: there is no GPU here; copy $folder to a machine with one and call run.sh" >&2
  exit 0
fi
"$folder/run.sh"
