#!/usr/bin/env bash
# Fuzzes AdaComp's decoder under the address and undefined-behaviour sanitizers, from the corpus in
# tests/cc/adacomp_corpus. With clang (CLANG, or clang++ or clang++-14 on the PATH) libFuzzer does it,
# guided by coverage; with GCC alone, a loop of blind mutations.
# usage: tools/fuzz.sh [RUNS] [NEW_CORPUS]   (NEW_CORPUS: a folder for inputs that reach new code)
set -euo pipefail
cd "$(dirname "$0")/.."
runs=${1:-1000000}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
new=${2:-$work/new}
mkdir -p "$new"
corpus=tests/cc/adacomp_corpus
sources=(tests/cc/adacomp_fuzz.cc cc/kernels/adacomp_codec.cc cc/kernels/cpu_features.cc)
flags=(-std=c++17 -O2 -g -I. -ffp-contract=off -fno-sanitize-recover=all)

clang=${CLANG:-$(command -v clang++ || command -v clang++-14 || true)}
if [ -n "$clang" ] &&
   echo 'extern "C" int LLVMFuzzerTestOneInput(const char*, unsigned long) { return 0; }' |
   "$clang" -fsanitize=fuzzer -x c++ - -o "$work/probe" 2>/dev/null; then
  compiler=$clang
  flags+=(-fsanitize=fuzzer,address,undefined)
  echo "fuzz: libFuzzer, $("$clang" --version | head -1)" >&2
else
  compiler=g++
  flags+=(-fsanitize=address,undefined -DLOWPREC_FUZZ_MAIN)
  echo "fuzz: no clang with libFuzzer, so blind mutations with $(g++ --version | head -1)" >&2
fi

# The loops of each instruction set, as Bazel builds them.
objects=()
if [ "$(uname -m)" = x86_64 ]; then
  declare -A isas=([portable]=-mavx [avx2]="-mavx2 -mfma"
    [avx512]="-mavx2 -mfma -mavx512f -mavx512dq -mavx512bw -mavx512vl")
else
  declare -A isas=([portable]="")
fi
for isa in "${!isas[@]}"; do
  # shellcheck disable=SC2086
  "$compiler" "${flags[@]}" ${isas[$isa]} -c "cc/kernels/adacomp_$isa.cc" -o "$work/$isa.o"
  objects+=("$work/$isa.o")
done
"$compiler" "${flags[@]}" "${sources[@]}" "${objects[@]}" -o "$work/fuzz"

# Small, so that freed memory does not fall out of the caches.
export ASAN_OPTIONS=quarantine_size_mb=8
if [ "$compiler" = g++ ]; then
  "$work/fuzz" "$runs" "$corpus"/*
else
  "$work/fuzz" -runs="$runs" -max_len=1024 -print_final_stats=1 -artifact_prefix="$work/" \
    "$new" "$corpus" 2>&1 | grep -E 'DONE|stat::|ERROR|SUMMARY|Base64|abort|#[0-9]+ .*cov' | tail -25
fi
