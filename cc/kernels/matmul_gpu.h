// The CUDA kernel of Lowprec>MatMul: body and launch. Included by matmul_gpu.cu.cc for nvcc, and by
// the tests for the host, against gpu_shim.h.
#ifndef TF_LOWPREC_CC_KERNELS_MATMUL_GPU_H_
#define TF_LOWPREC_CC_KERNELS_MATMUL_GPU_H_

#include "cc/kernels/gpu_shim.h"
#include "cc/kernels/matmul.h"
#include "cc/numerics/accumulate.h"

LOWPREC_BEGIN_NAMESPACE

constexpr int kGpuTile = 16;  // rows and columns of a block's tile, and k's brought in at a time
static_assert(kGpuTile * kGpuTile == kGpuThreads, "one output element to a thread");

// A thread owns an output element and walks through k in order; a block's threads bring the
// operands' tiles into shared memory together.
template <Rounding kRounding, bool kGapAtZero>
__global__ void MatMulKernel(GpuMatMulTask task, FloatRounder<double> rounder) {
  LOWPREC_SHARED float left[kGpuTile][kGpuTile + 1];   // [row][k]
  LOWPREC_SHARED float right[kGpuTile][kGpuTile + 1];  // [k][column]
  const int tx = static_cast<int>(threadIdx.x) % kGpuTile;
  const int ty = static_cast<int>(threadIdx.x) / kGpuTile;
  const int64_t column_tiles = (task.n + kGpuTile - 1) / kGpuTile;
  const int64_t tiles = (task.m + kGpuTile - 1) / kGpuTile * column_tiles;
  const int64_t chunk = task.accumulator.chunk > 0 ? task.accumulator.chunk : task.k;
  const int64_t steps =
      task.k + (task.accumulator.chunk > 0 ? (task.k + chunk - 1) / chunk : int64_t{0});
  for (int64_t block = blockIdx.x; block < tiles * task.batches; block += gridDim.x) {
    const int64_t batch = block / tiles, tile = block % tiles;
    const float* a = task.a + batch * task.a_step;
    const float* b = task.b + batch * task.b_step;
    const int64_t row0 = tile / column_tiles * kGpuTile, column0 = tile % column_tiles * kGpuTile;
    const int64_t row = row0 + ty, column = column0 + tx;
    const bool inside = row < task.m && column < task.n;
    const int64_t element = (batch * task.m + row) * task.n + column;
    const int32_t* random =
        task.random_bits != nullptr && inside ? task.random_bits + element * steps : nullptr;
    uint32_t state = 0;
    if (kRounding == Rounding::kStochastic && random == nullptr) {
      state = FirstRandomState(static_cast<uint64_t>(task.index + element), task.stream,
                               PhiloxKey{task.seed[0], task.seed[1]});
    }
    const auto step = [&](float s, float x, float y) {
      uint32_t r = 0;
      if (kRounding == Rounding::kStochastic) {
        if (random != nullptr) {
          r = static_cast<uint32_t>(*random++) & ((1u << kAccumulatorRandomBits) - 1);
        } else {
          state = NextRandomState(state);
          r = state >> (32 - kAccumulatorRandomBits);
        }
      }
      return AccumulateStep<kRounding, kGapAtZero>(s, x, y, rounder, r);
    };
    float sum = 0, total = 0;
    int64_t left_in_chunk = chunk;
    for (int64_t k0 = 0; k0 < task.k; k0 += kGpuTile) {
      // Each operand's tile is read along its rows in memory.
      const int64_t ak = k0 + (task.transpose_a ? ty : tx),
                    ai = row0 + (task.transpose_a ? tx : ty);
      const int64_t bk = k0 + (task.transpose_b ? tx : ty);
      const int64_t bj = column0 + (task.transpose_b ? ty : tx);
      const float x = ak < task.k && ai < task.m
                          ? a[task.transpose_a ? ak * task.m + ai : ai * task.k + ak]
                          : 0.0f;
      const float y = bk < task.k && bj < task.n
                          ? b[task.transpose_b ? bj * task.k + bk : bk * task.n + bj]
                          : 0.0f;
      left[ai - row0][ak - k0] = x;
      right[bk - k0][bj - column0] = y;
      __syncthreads();
      const int count = task.k - k0 < kGpuTile ? static_cast<int>(task.k - k0) : kGpuTile;
      for (int i = 0; inside && i < count; ++i) {
        sum = step(sum, left[ty][i], right[i][tx]);
        if (--left_in_chunk == 0 && task.accumulator.chunk > 0) {
          total = step(total, sum, 1.0f);
          sum = 0;
          left_in_chunk = chunk;
        }
      }
      __syncthreads();
    }
    if (task.accumulator.chunk > 0 && left_in_chunk < chunk && inside) {
      total = step(total, sum, 1.0f);
    }
    if (inside) task.c[element] = task.accumulator.chunk > 0 ? total : sum;
  }
}

template <Rounding kRounding>
void LaunchMatMulAs(const GpuMatMulTask& task, void* stream) {
  const AccumulatorSpec& spec = task.accumulator;
  const FloatFormat format = {spec.exponent_bits, spec.mantissa_bits,
                              static_cast<Specials>(spec.specials), spec.saturate, spec.subnormals};
  const FloatRounder<double> rounder = MakeFloatRounder<double>(format, kRounding);
  const int64_t tiles = (task.m + kGpuTile - 1) / kGpuTile * ((task.n + kGpuTile - 1) / kGpuTile);
  const unsigned int blocks = GpuBlocks(tiles * task.batches);
  if (!format.subnormals || format.specials == Specials::kDlfloat) {
    LOWPREC_LAUNCH_SYNCHRONIZED((MatMulKernel<kRounding, true>), blocks, kGpuThreads, stream, task,
                                rounder);
  } else {
    LOWPREC_LAUNCH_SYNCHRONIZED((MatMulKernel<kRounding, false>), blocks, kGpuThreads, stream, task,
                                rounder);
  }
}

inline void LaunchMatMulRounding(const GpuMatMulTask& task, void* stream) {
  switch (static_cast<Rounding>(task.accumulator.rounding)) {
    case Rounding::kNearestEven:
      return LaunchMatMulAs<Rounding::kNearestEven>(task, stream);
    case Rounding::kNearestUp:
      return LaunchMatMulAs<Rounding::kNearestUp>(task, stream);
    case Rounding::kStochastic:
      return LaunchMatMulAs<Rounding::kStochastic>(task, stream);
    case Rounding::kTowardZero:
      return LaunchMatMulAs<Rounding::kTowardZero>(task, stream);
  }
}

LOWPREC_END_NAMESPACE

#endif  // TF_LOWPREC_CC_KERNELS_MATMUL_GPU_H_
