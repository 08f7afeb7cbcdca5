// The CUDA kernel of Lowprec>WideMatMul: body and launch. Included by wide_matmul_gpu.cu.cc for
// nvcc, and by the tests for the host, against gpu_shim.h.
#ifndef TF_LOWPREC_CC_KERNELS_WIDE_MATMUL_GPU_H_
#define TF_LOWPREC_CC_KERNELS_WIDE_MATMUL_GPU_H_

#include "cc/kernels/gpu_shim.h"
#include "cc/kernels/wide_matmul.h"
#include "cc/numerics/format.h"

LOWPREC_BEGIN_NAMESPACE

constexpr int kWideTile = 16;
static_assert(kWideTile * kWideTile == kGpuThreads, "one output element to a thread");

// k of k * 2^-FL, a NaN as kWideNan.
constexpr int32_t kWideNan = 1 << 30;
LOWPREC_HD int32_t WideInteger(float x, float scale) {
  const float y = x * scale;
  if (y != y) return kWideNan;
  return static_cast<int32_t>(y > -32768.0f ? (y < 32767.0f ? y : 32767.0f) : -32768.0f);
}

// A thread owns an output element; a block's threads bring the operands' tiles into shared memory
// together, as integers. Sums of 32-bit products in 64 bits are exact.
__global__ void WideMatMulKernel(WideMatMulTask task, int64_t batches) {
  LOWPREC_SHARED int32_t left[kWideTile][kWideTile + 1];   // [row][k]
  LOWPREC_SHARED int32_t right[kWideTile][kWideTile + 1];  // [k][column]
  const int tx = static_cast<int>(threadIdx.x) % kWideTile;
  const int ty = static_cast<int>(threadIdx.x) / kWideTile;
  const float a_scale = PowerOfTwo(task.a_fractional_bits);
  const float b_scale = PowerOfTwo(task.b_fractional_bits);
  const double unit = static_cast<double>(PowerOfTwo(-task.a_fractional_bits)) *
                      static_cast<double>(PowerOfTwo(-task.b_fractional_bits));
  const int64_t column_tiles = (task.n + kWideTile - 1) / kWideTile;
  const int64_t tiles = (task.m + kWideTile - 1) / kWideTile * column_tiles;
  for (int64_t block = blockIdx.x; block < tiles * batches; block += gridDim.x) {
    const int64_t batch = block / tiles, tile = block % tiles;
    const float* a = task.a + batch * task.m * task.k;
    const float* b = task.b + batch * task.k * task.n;
    const int64_t row0 = tile / column_tiles * kWideTile, column0 = tile % column_tiles * kWideTile;
    int64_t sum = 0;
    bool nan = false;
    for (int64_t k0 = 0; k0 < task.k; k0 += kWideTile) {
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
      left[ai - row0][ak - k0] = WideInteger(x, a_scale);
      right[bk - k0][bj - column0] = WideInteger(y, b_scale);
      __syncthreads();
      for (int i = 0; i < kWideTile; ++i) {
        const int32_t p = left[ty][i], q = right[i][tx];
        nan = nan || p == kWideNan || q == kWideNan;
        sum += int64_t{p} * q;
      }
      __syncthreads();
    }
    const int64_t row = row0 + ty, column = column0 + tx;
    if (row < task.m && column < task.n) {
      task.c[(batch * task.m + row) * task.n + column] =
          nan ? FromBits<double>(0x7FF8000000000000u) : static_cast<double>(sum) * unit;
    }
  }
}

inline void LaunchWideMatMulTiles(const WideMatMulTask& task, int64_t batches, void* stream) {
  const int64_t tiles =
      (task.m + kWideTile - 1) / kWideTile * ((task.n + kWideTile - 1) / kWideTile);
  LOWPREC_LAUNCH_SYNCHRONIZED(WideMatMulKernel, GpuBlocks(tiles * batches), kGpuThreads, stream,
                              task, batches);
}

LOWPREC_END_NAMESPACE

#endif  // TF_LOWPREC_CC_KERNELS_WIDE_MATMUL_GPU_H_
