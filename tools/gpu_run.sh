#!/usr/bin/env bash
# Runs what tools/gpu_test.sh built and lies beside this file.
# usage: run.sh [RESULTS]     (a folder; by default this file's own)
# RESULTS gets log.txt, all that the programs print, and gpu_kernels.json, the benchmark.
cd "$(dirname "$0")" || exit 1
results=${1:-.}
mkdir -p "$results"
log=$results/log.txt
: >"$log"
failed=0

run() {  # SECONDS COMMAND...
  local limit=$1 start=$SECONDS status
  shift
  printf '==== %s\n' "$*" >>"$log"
  timeout "$limit" "$@" >>"$log" 2>&1
  status=$?
  case $status in
    0) echo "passed   $((SECONDS - start)) s  $*" ;;
    77) echo "SKIPPED  $*" ;;
    124) echo "TIMEOUT  $*" && failed=1 ;;
    *) echo "FAILED   $((SECONDS - start)) s  $*, exit status $status" && failed=1 ;;
  esac
}

nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader 2>&1 | tee -a "$log"
for program in ./*_on_device; do
  if [ "$program" != ./large_gpu_on_device ]; then run 60 "$program"; fi
done

# cuBLAS, where Python packages have it.
if [ -z "${TF_LOWPREC_CUBLAS:-}" ]; then
  sites=$(python3 -c 'import site, sys; print("\n".join({*site.getsitepackages(), *sys.path}))' \
    2>/dev/null)
  while IFS= read -r site; do
    for library in "$site"/nvidia/*/lib/libcublas.so.*; do
      if [ -n "$site" ] && [ -e "$library" ]; then export TF_LOWPREC_CUBLAS=$library; fi
    done
  done <<<"$sites"
fi
if [ -n "${TF_LOWPREC_CUBLAS:-}" ]; then
  export LD_LIBRARY_PATH=${TF_LOWPREC_CUBLAS%/*}${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
fi
run 90 ./gpu_kernels "$results/gpu_kernels.json"
run 150 ./large_gpu_on_device
# Addresses and races, as far as there is time; 8 of these take minutes.
if [ -n "${TF_LOWPREC_SANITIZE:-}" ] && command -v compute-sanitizer >/dev/null 2>&1; then
  for tool in memcheck racecheck; do
    for program in matmul conv2d wide_matmul quantize; do
      run 40 compute-sanitizer --tool "$tool" --error-exitcode 1 "./${program}_gpu_on_device"
    done
  done
fi
grep -E ' outputs right to the bit| outputs are wrong|SUMMARY|cudaError| elements/s| MAC/s|no cuBLAS' \
  "$log" | cut -c1-220
exit $failed
