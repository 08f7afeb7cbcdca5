// Lets a CUDA kernel's body be compiled by the host's compiler too, so that its bits can be
// compared with the CPU kernel's where there is no GPU. Kernels are written as usual and launched
// with LOWPREC_LAUNCH; on the host the launch is a loop over the grid.
#ifndef TF_LOWPREC_CC_KERNELS_GPU_SHIM_H_
#define TF_LOWPREC_CC_KERNELS_GPU_SHIM_H_

#if defined(__CUDACC__)

#include <cuda_runtime.h>

#define LOWPREC_LAUNCH(kernel, blocks, threads, stream, ...) \
  kernel<<<blocks, threads, 0, static_cast<cudaStream_t>(stream)>>>(__VA_ARGS__)

#else

#define __global__

namespace tf_lowprec {

struct ShimIndex {
  unsigned int x;
};

// What CUDA's built-in variables of the same names hold; one grid at a time per host thread.
inline thread_local ShimIndex blockIdx, threadIdx, blockDim, gridDim;

// Threads run one after the other: enough for kernels without shared memory.
template <typename Kernel, typename... Args>
void ShimLaunch(Kernel kernel, unsigned int blocks, unsigned int threads, const Args&... args) {
  gridDim.x = blocks;
  blockDim.x = threads;
  for (blockIdx.x = 0; blockIdx.x < blocks; ++blockIdx.x) {
    for (threadIdx.x = 0; threadIdx.x < threads; ++threadIdx.x) kernel(args...);
  }
}

}  // namespace tf_lowprec

#define LOWPREC_LAUNCH(kernel, blocks, threads, stream, ...) \
  (static_cast<void>(stream), ::tf_lowprec::ShimLaunch(kernel, blocks, threads, __VA_ARGS__))

#endif  // __CUDACC__

#endif  // TF_LOWPREC_CC_KERNELS_GPU_SHIM_H_
