// Compiled by nvcc for programs that run on a GPU, and by the host's compiler for the shim's.
#include "tests/cc/gpu_memory.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>

#if defined(__CUDACC__)
#include <cuda_runtime.h>
#endif

namespace tf_lowprec {

#if defined(__CUDACC__)

namespace {

constexpr int kSkipped = 77;  // as automake and CTest know it

void Check(cudaError_t status, const char* what) {
  if (status == cudaSuccess) return;
  fprintf(stderr, "%s: %s\n", what, cudaGetErrorString(status));
  abort();
}

}  // namespace

std::string GpuName() {
  int count = 0;
  const cudaError_t status = cudaGetDeviceCount(&count);
  if (status != cudaSuccess || count == 0) {
    printf("SKIPPED: there is no GPU here (%s)\n", cudaGetErrorString(status));
    exit(kSkipped);
  }
  cudaDeviceProp properties;
  Check(cudaGetDeviceProperties(&properties, 0), "cudaGetDeviceProperties");
  return std::string(properties.name) + ", sm_" +
         std::to_string(properties.major * 10 + properties.minor);
}

void* AllocateOnGpu(size_t bytes) {
  void* memory = nullptr;
  Check(cudaMalloc(&memory, bytes > 0 ? bytes : 1), "cudaMalloc");
  return memory;
}
void FreeOnGpu(void* memory) { Check(cudaFree(memory), "cudaFree"); }
void CopyToGpu(void* to, const void* from, size_t bytes) {
  Check(cudaMemcpy(to, from, bytes, cudaMemcpyHostToDevice), "copying to the GPU");
}
void CopyFromGpu(void* to, const void* from, size_t bytes) {
  Check(cudaGetLastError(), "launching a kernel");
  Check(cudaDeviceSynchronize(), "running a kernel");
  Check(cudaMemcpy(to, from, bytes, cudaMemcpyDeviceToHost), "copying from the GPU");
}

#else

std::string GpuName() { return "the host, against gpu_shim.h"; }
void* AllocateOnGpu(size_t bytes) { return malloc(bytes); }
void FreeOnGpu(void* memory) { free(memory); }
void CopyToGpu(void* to, const void* from, size_t bytes) {
  if (bytes > 0) memcpy(to, from, bytes);
}
void CopyFromGpu(void* to, const void* from, size_t bytes) {
  if (bytes > 0) memcpy(to, from, bytes);
}

#endif

}  // namespace tf_lowprec
