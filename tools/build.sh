#!/usr/bin/env bash
# Builds the op library with Bazel for the TensorFlow of a Python interpreter.
# usage: tools/build.sh PYTHON DESTINATION     (DESTINATION: the package's folder, relative or not)
set -euo pipefail
if [ $# -ne 2 ]; then
  echo "usage: tools/build.sh PYTHON DESTINATION" >&2
  exit 2
fi
python=$(command -v "$1")
case $python in /*) ;; *) python=$PWD/$python ;; esac
mkdir -p "$2"
destination=$(cd "$2" && pwd)
cd "$(dirname "$0")/.."

bazel=$(tools/bazel.sh)
export PYTHON_BIN_PATH=$python
# In the environment, so that Bazel notices a TensorFlow that was upgraded in place.
TF_LOWPREC_TF_VERSION=$("$python" -c '
from importlib import metadata
for name in ("tensorflow", "tensorflow-cpu", "tf-nightly"):
    try:
        print(metadata.version(name))
        break
    except metadata.PackageNotFoundError:
        pass
')
export TF_LOWPREC_TF_VERSION
if [ -z "$TF_LOWPREC_TF_VERSION" ]; then
  echo "build: $python has no TensorFlow: pip install tensorflow==2.21.0 there first" >&2
  exit 1
fi
config=()
if command -v "${TF_LOWPREC_NVCC:-nvcc}" >/dev/null 2>&1; then
  echo "build: nvcc found, so CUDA kernels for sm_80 and sm_90 are built too" >&2
  config=(--config=cuda)
else
  echo "build: no nvcc, so CPU kernels only" >&2
fi
"$bazel" --max_idle_secs=300 build "${config[@]}" //:tf_lowprec/_ops.so //:build_info >&2
output=$("$bazel" --max_idle_secs=300 info "${config[@]}" bazel-bin 2>/dev/null)
for file in _ops.so _build_info.py; do
  # Replaced in one step: a process that has the old library open keeps it.
  install -m 644 "$output/tf_lowprec/$file" "$destination/$file.new"
  mv -f "$destination/$file.new" "$destination/$file"
done
