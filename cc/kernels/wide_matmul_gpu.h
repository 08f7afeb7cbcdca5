// The CUDA kernel of Lowprec>WideMatMul: body and launch. Included by wide_matmul_gpu.cu.cc for
// nvcc, and by the tests for the host, against gpu_shim.h.
#ifndef TF_LOWPREC_CC_KERNELS_WIDE_MATMUL_GPU_H_
#define TF_LOWPREC_CC_KERNELS_WIDE_MATMUL_GPU_H_

#include "cc/kernels/gemm_tiles_gpu.h"
#include "cc/kernels/wide_matmul.h"
#include "cc/numerics/format.h"

LOWPREC_BEGIN_NAMESPACE

// k of k * 2^-FL, a NaN as kWideNan.
constexpr int32_t kWideNan = 1 << 30;
LOWPREC_HD int32_t WideInteger(float x, float scale) {
  const float y = x * scale;
  if (y != y) return kWideNan;
  return static_cast<int32_t>(y > -32768.0f ? (y < 32767.0f ? y : 32767.0f) : -32768.0f);
}

struct WideLane : MatrixLane {
  float scale;

  LOWPREC_DEVICE WideLane(const MatrixLane& lane, float of) : MatrixLane(lane), scale(of) {}
  LOWPREC_DEVICE int32_t At(int64_t k) const { return WideInteger(MatrixLane::At(k), scale); }
};

// Sums of 32-bit products in 64 bits are exact.
__global__ void WideMatMulKernel(WideMatMulTask task, GpuTiles tiles) {
  const float a_scale = PowerOfTwo(task.a_fractional_bits);
  const float b_scale = PowerOfTwo(task.b_fractional_bits);
  const double unit = static_cast<double>(PowerOfTwo(-task.a_fractional_bits)) *
                      static_cast<double>(PowerOfTwo(-task.b_fractional_bits));
  for (int64_t index = blockIdx.x; index < tiles.Count(); index += gridDim.x) {
    const GpuTile tile(tiles, index);
    const bool a_last = task.transpose_a, b_last = !task.transpose_b;
    const MatrixLane a(task.a + tile.batch * task.m * task.k, a_last, tile.row + TileLane(a_last),
                       task.m, task.k);
    const MatrixLane b(task.b + tile.batch * task.k * task.n, b_last,
                       tile.column + TileLane(b_last), task.n, task.k);
    int64_t sum = 0;
    bool nan = false;
    ForEachTerm<int32_t>(WideLane(a, a_scale), a_last, WideLane(b, b_scale), b_last, task.k,
                         [&](int32_t p, int32_t q) {
                           nan = nan || p == kWideNan || q == kWideNan;
                           sum += int64_t{p} * q;
                         });
    const int64_t row = tile.row + TileY(), column = tile.column + TileX();
    if (row < task.m && column < task.n) {
      task.c[(tile.batch * task.m + row) * task.n + column] =
          nan ? FromBits<double>(0x7FF8000000000000u) : static_cast<double>(sum) * unit;
    }
  }
}

inline void LaunchWideMatMulTiles(const WideMatMulTask& task, int64_t batches, void* stream) {
  const GpuTiles tiles = {task.m, task.n, batches, kGpuTile};
  LOWPREC_LAUNCH_SYNCHRONIZED(WideMatMulKernel, GpuBlocks(tiles.Count()), kGpuThreads, stream, task,
                              tiles);
}

LOWPREC_END_NAMESPACE

#endif  // TF_LOWPREC_CC_KERNELS_WIDE_MATMUL_GPU_H_
