// The CUDA kernel of Lowprec>QuantizeMx: body and launch. Included by mx_quantize_gpu.cu.cc for
// nvcc, and by the tests for the host, against gpu_shim.h.
#ifndef TF_LOWPREC_CC_KERNELS_MX_QUANTIZE_GPU_H_
#define TF_LOWPREC_CC_KERNELS_MX_QUANTIZE_GPU_H_

#include "cc/kernels/gpu_shim.h"
#include "cc/kernels/mx_rounding.h"
#include "cc/numerics/philox.h"

LOWPREC_BEGIN_NAMESPACE

// A team of threads takes a block's elements in turn; `team`, a power of two, divides kGpuThreads.
// Of teams of one thread, neighbours have neighbouring blocks.
template <Rounding kRounding, bool kGapAtZero, typename T>
__global__ void QuantizeMxKernel(MxTask task, const T* x, MxElement<T> element, int team) {
  LOWPREC_SHARED uint32_t largest[kGpuThreads];  // of each team
  const int thread = static_cast<int>(threadIdx.x);
  const int mine = thread / team, member = thread % team, teams = kGpuThreads / team;
  const PhiloxKey key = {task.element.seed[0], task.element.seed[1]};
  const int64_t blocks = task.Blocks(), total = task.outer * blocks * task.inner;
  for (int64_t first = int64_t{blockIdx.x} * teams; first < total;
       first += int64_t{gridDim.x} * teams) {
    const int64_t index = first + mine;  // of the block's scale
    const int64_t unit = index / task.inner;
    const int64_t begin = unit % blocks * task.block;
    const int64_t last = begin + task.block < task.length ? begin + task.block : task.length;
    const int64_t end = index < total ? last : begin;
    const int64_t start = unit / blocks * task.length * task.inner + index % task.inner;
    uint32_t own = 0;
    for (int64_t j = begin + member; j < end; j += team) {
      const uint32_t field = ExponentField<T>(x[start + j * task.inner]);
      own = field > own ? field : own;
    }
    if (member == 0) largest[mine] = 0;
    __syncthreads();
    atomicMax(&largest[mine], own);
    __syncthreads();
    const uint8_t code = MxScaleCode<T>(largest[mine], element.max_exponent);
    if (member == 0 && index < total) task.scales[index] = code;
    const MxScale scale = MakeMxScale(code);
    for (int64_t j = begin + member; j < end; j += team) {
      const int64_t at = start + j * task.inner;
      uint32_t random = 0;
      if constexpr (kRounding == Rounding::kStochastic) {
        random =
            RandomWord(static_cast<uint64_t>(at), task.element.stream, key) >> (32 - kRandomBits);
      }
      task.element.y[at] = RoundMx<kRounding, kGapAtZero>(x[at], scale, element.rounder, random);
    }
    __syncthreads();
  }
}

inline void LaunchQuantizeMxTeams(const MxTask& task, void* stream) {
  // Where a block's elements lie side by side, a warp reads them together.
  constexpr int kWarp = 32;
  int team = 1;
  while (task.inner == 1 && team < kWarp && team < task.block) team *= 2;
  const int64_t teams = kGpuThreads / team, total = task.outer * task.Blocks() * task.inner;
  WithMxRounding(task, [&](const auto* x, const auto& element, auto rounding, auto gap) {
    using T = std::decay_t<decltype(*x)>;
    LOWPREC_LAUNCH_SYNCHRONIZED(
        (QuantizeMxKernel<decltype(rounding)::value, decltype(gap)::value, T>),
        GpuBlocks((total + teams - 1) / teams), kGpuThreads, stream, task, x, element, team);
  });
}

LOWPREC_END_NAMESPACE

#endif  // TF_LOWPREC_CC_KERNELS_MX_QUANTIZE_GPU_H_
