// Lets a CUDA kernel's body be compiled by the host's compiler too, so that its bits can be
// compared with the CPU kernel's where there is no GPU. Kernels are written as usual, with
// LOWPREC_SHARED for __shared__ and LOWPREC_DEVICE for __device__, and launched with
// LOWPREC_LAUNCH; on the host the launch is a loop over the grid's blocks.
#ifndef TF_LOWPREC_CC_KERNELS_GPU_SHIM_H_
#define TF_LOWPREC_CC_KERNELS_GPU_SHIM_H_

#include <cstdint>

#if defined(__CUDACC__)

#include <cuda_runtime.h>

#define LOWPREC_LAUNCH(kernel, blocks, threads, stream, ...) \
  kernel<<<blocks, threads, 0, static_cast<cudaStream_t>(stream)>>>(__VA_ARGS__)
#define LOWPREC_SHARED __shared__
#define LOWPREC_DEVICE __device__ __forceinline__

#else

#include <ucontext.h>

#include <functional>
#include <vector>

#define __global__
#define LOWPREC_SHARED static thread_local
#define LOWPREC_DEVICE inline

namespace tf_lowprec {

struct ShimIndex {
  unsigned int x;
};

// What CUDA's built-in variables of the same names hold; one grid at a time per host thread.
inline thread_local ShimIndex blockIdx, threadIdx, blockDim, gridDim;

// The threads of a block, as coroutines that take turns at __syncthreads.
class ShimBlock {
 public:
  ShimBlock(unsigned int threads, const std::function<void()>& body)
      : body_(body), contexts_(threads), stacks_(threads * kStack), finished_(threads) {}

  // Every thread up to its next __syncthreads or its end, until all have ended.
  void Run() {
    current_ = this;
    for (size_t i = 0; i < contexts_.size(); ++i) {
      Prepare(&contexts_[i], stacks_.data() + i * kStack);
      finished_[i] = false;
    }
    bool any = true;
    while (any) {
      any = false;
      for (unsigned int i = 0; i < contexts_.size(); ++i) {
        if (finished_[i]) continue;
        threadIdx.x = i;
        swapcontext(&scheduler_, &contexts_[i]);
        any = any || !finished_[i];
      }
    }
    current_ = nullptr;
  }

  static void Synchronize() {
    swapcontext(&current_->contexts_[threadIdx.x], &current_->scheduler_);
  }

 private:
  static constexpr size_t kStack = 32 << 10;

  void Prepare(ucontext_t* context, char* stack) {
    getcontext(context);
    context->uc_stack.ss_sp = stack;
    context->uc_stack.ss_size = kStack;
    context->uc_link = &scheduler_;
    makecontext(context, &ShimBlock::Enter, 0);
  }

  static void Enter() {
    current_->body_();
    current_->finished_[threadIdx.x] = true;
  }

  static inline thread_local ShimBlock* current_ = nullptr;
  const std::function<void()>& body_;
  ucontext_t scheduler_;
  std::vector<ucontext_t> contexts_;
  std::vector<char> stacks_;
  std::vector<bool> finished_;
};

inline void __syncthreads() { ShimBlock::Synchronize(); }

// kernel(args...) for every block; in coroutines only where its threads synchronize.
template <typename Kernel, typename... Args>
void ShimLaunch(bool synchronizes, Kernel kernel, unsigned int blocks, unsigned int threads,
                const Args&... args) {
  gridDim.x = blocks;
  blockDim.x = threads;
  const std::function<void()> body = [&] { kernel(args...); };
  ShimBlock block(synchronizes ? threads : 0, body);
  for (blockIdx.x = 0; blockIdx.x < blocks; ++blockIdx.x) {
    if (synchronizes) {
      block.Run();
    } else {
      for (threadIdx.x = 0; threadIdx.x < threads; ++threadIdx.x) kernel(args...);
    }
  }
}

}  // namespace tf_lowprec

// For kernels without __syncthreads, which is quicker on the host, and for those with it.
#define LOWPREC_LAUNCH(kernel, blocks, threads, stream, ...) \
  (static_cast<void>(stream), ::tf_lowprec::ShimLaunch(false, kernel, blocks, threads, __VA_ARGS__))

#endif  // __CUDACC__

#if defined(__CUDACC__)
#define LOWPREC_LAUNCH_SYNCHRONIZED LOWPREC_LAUNCH
#else
#define LOWPREC_LAUNCH_SYNCHRONIZED(kernel, blocks, threads, stream, ...) \
  (static_cast<void>(stream), ::tf_lowprec::ShimLaunch(true, kernel, blocks, threads, __VA_ARGS__))
#endif

namespace tf_lowprec {

constexpr int kGpuThreads = 256;

// Enough blocks to fill any GPU; blocks or threads stride over the rest.
inline unsigned int GpuBlocks(int64_t count) {
  return static_cast<unsigned int>(count < 65535 ? count : 65535);
}

}  // namespace tf_lowprec

#endif  // TF_LOWPREC_CC_KERNELS_GPU_SHIM_H_
