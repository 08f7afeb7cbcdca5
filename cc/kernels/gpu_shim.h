// Lets a CUDA kernel's body be compiled by the host's compiler too, so that its bits can be
// compared with the CPU kernel's where there is no GPU. Kernels are written as usual, with
// LOWPREC_SHARED for __shared__ and LOWPREC_DEVICE for __device__, and launched with
// LOWPREC_LAUNCH; on the host the launch is a loop over the grid's blocks.
#ifndef TF_LOWPREC_CC_KERNELS_GPU_SHIM_H_
#define TF_LOWPREC_CC_KERNELS_GPU_SHIM_H_

#include <cstddef>
#include <cstdint>
#include <cstring>

#if defined(__CUDACC__)

#include <cuda_runtime.h>

#define LOWPREC_LAUNCH(kernel, blocks, threads, stream, ...) \
  kernel<<<blocks, threads, 0, static_cast<cudaStream_t>(stream)>>>(__VA_ARGS__)
#define LOWPREC_SHARED __shared__
#define LOWPREC_UNROLL _Pragma("unroll")
#define LOWPREC_DEVICE __device__ __forceinline__

#else

#include <ucontext.h>

#include <functional>
#include <memory>
#include <vector>

#define __global__
#define __launch_bounds__(threads)
#define LOWPREC_SHARED static thread_local
#define LOWPREC_UNROLL
#define LOWPREC_DEVICE inline

namespace tf_lowprec {

struct ShimIndex {
  unsigned int x;
};

// What CUDA's built-in variables of the same names hold; one grid at a time per host thread.
inline thread_local ShimIndex blockIdx, threadIdx, blockDim, gridDim;

// The threads of a block, as coroutines that take turns at __syncthreads. They are kept from one
// block and launch to the next; a switch is a jump, since swapcontext would call the system.
class ShimBlock {
 public:
  // body() in every thread, up to its next __syncthreads or its end, until all have ended.
  static void Run(unsigned int threads, const std::function<void()>& body) {
    ShimBlock& block = Get();
    block.body_ = &body;
    while (block.coroutines_.size() < threads) {
      block.coroutines_.push_back(std::make_unique<Coroutine>());
      block.Prepare(block.coroutines_.back().get());
    }
    for (unsigned int i = 0; i < threads; ++i) block.coroutines_[i]->finished = false;
    for (unsigned int left = threads; left > 0;) {
      for (threadIdx.x = 0; threadIdx.x < threads; ++threadIdx.x) {
        Coroutine* const coroutine = block.coroutines_[threadIdx.x].get();
        if (coroutine->finished) continue;
        block.Resume(coroutine);
        left -= coroutine->finished;
      }
    }
  }

  static void Synchronize() {
    ShimBlock& block = Get();
    Switch(block.coroutines_[threadIdx.x]->place, block.scheduler_);
  }

 private:
  using Place = void* [5];  // of __builtin_setjmp

  struct Coroutine {
    std::unique_ptr<char[]> stack = std::make_unique<char[]>(kStack);
    ucontext_t context;
    Place place;
    bool started = false, finished = false;
  };

  static ShimBlock& Get() {
    static thread_local ShimBlock block;
    return block;
  }

  static void Prepare(Coroutine* coroutine) {
    getcontext(&coroutine->context);
    coroutine->context.uc_stack.ss_sp = coroutine->stack.get();
    coroutine->context.uc_stack.ss_size = kStack;
    coroutine->context.uc_link = nullptr;
    makecontext(&coroutine->context, &ShimBlock::Enter, 0);
  }

  // noipa: callers must not reckon with which registers these use. A function that calls
  // __builtin_setjmp must not call __builtin_longjmp.
  __attribute__((noipa)) static void Jump(Place to) { __builtin_longjmp(to, 1); }
  __attribute__((noipa)) static void Switch(Place from, Place to) {
    if (__builtin_setjmp(from) == 0) Jump(to);
  }
  __attribute__((noipa)) void Start(Coroutine* coroutine) {
    if (__builtin_setjmp(scheduler_) == 0) setcontext(&coroutine->context);
  }
  void Resume(Coroutine* coroutine) {
    if (coroutine->started) {
      Switch(scheduler_, coroutine->place);
    } else {
      coroutine->started = true;
      Start(coroutine);
    }
  }

  // Of a coroutine: one body after the other.
  static void Enter() {
    for (;;) {
      (*Get().body_)();
      Get().coroutines_[threadIdx.x]->finished = true;
      Synchronize();
    }
  }

  static constexpr size_t kStack = 32 << 10;
  const std::function<void()>* body_ = nullptr;
  std::vector<std::unique_ptr<Coroutine>> coroutines_;
  Place scheduler_;
};

inline void __syncthreads() { ShimBlock::Synchronize(); }

inline uint32_t atomicAdd(uint32_t* to, uint32_t x) {
  const uint32_t before = *to;
  *to += x;
  return before;
}
inline uint32_t atomicMax(uint32_t* to, uint32_t x) {
  const uint32_t before = *to;
  if (before < x) *to = x;
  return before;
}
inline uint32_t atomicMin(uint32_t* to, uint32_t x) {
  const uint32_t before = *to;
  if (before > x) *to = x;
  return before;
}
inline uint32_t atomicOr(uint32_t* to, uint32_t x) {
  const uint32_t before = *to;
  *to |= x;
  return before;
}

// kernel(args...) for every block; in coroutines only where its threads synchronize.
template <typename Kernel, typename... Args>
void ShimLaunch(bool synchronizes, Kernel kernel, unsigned int blocks, unsigned int threads,
                const Args&... args) {
  gridDim.x = blocks;
  blockDim.x = threads;
  const std::function<void()> body = [&] { kernel(args...); };
  for (blockIdx.x = 0; blockIdx.x < blocks; ++blockIdx.x) {
    if (synchronizes) {
      ShimBlock::Run(threads, body);
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
inline unsigned int GpuBlocksFor(int64_t threads) {
  return GpuBlocks((threads + kGpuThreads - 1) / kGpuThreads);
}

// Copies in the order of a stream. Both return false if the GPU failed, here or before; fetching
// waits.
inline bool PutOnGpu(void* to, const void* from, size_t bytes, void* stream) {
#if defined(__CUDACC__)
  return cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice,
                         static_cast<cudaStream_t>(stream)) == cudaSuccess;
#else
  if (bytes > 0) memcpy(to, from, bytes);
  return true;
#endif
}
inline bool FetchFromGpu(void* to, const void* from, size_t bytes, void* stream) {
#if defined(__CUDACC__)
  return cudaGetLastError() == cudaSuccess &&
         cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost,
                         static_cast<cudaStream_t>(stream)) == cudaSuccess &&
         cudaStreamSynchronize(static_cast<cudaStream_t>(stream)) == cudaSuccess;
#else
  if (bytes > 0) memcpy(to, from, bytes);
  return true;
#endif
}

// Why a launch failed, here or before, or nullptr; the kernels themselves may still be running.
inline const char* LaunchError() {
#if defined(__CUDACC__)
  const cudaError_t error = cudaGetLastError();
  if (error != cudaSuccess) return cudaGetErrorString(error);
#endif
  return nullptr;
}

}  // namespace tf_lowprec

#endif  // TF_LOWPREC_CC_KERNELS_GPU_SHIM_H_
