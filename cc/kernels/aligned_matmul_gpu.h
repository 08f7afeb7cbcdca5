// The CUDA kernel of Lowprec>AlignedMatMul: body and launch. Included by aligned_matmul_gpu.cu.cc
// for nvcc, and by the tests for the host, against gpu_shim.h.
//
// A thread owns an output element and takes group after group; a block's threads bring the groups
// of their tile into shared memory together.
#ifndef TF_LOWPREC_CC_KERNELS_ALIGNED_MATMUL_GPU_H_
#define TF_LOWPREC_CC_KERNELS_ALIGNED_MATMUL_GPU_H_

#include "cc/kernels/aligned_spec.h"
#include "cc/kernels/gemm_tiles_gpu.h"

LOWPREC_BEGIN_NAMESPACE

constexpr int kAlignedStage = 64;  // k's that are brought in at a time, in whole groups
constexpr int kAlignedStep = kGpuTile + 1;

// k's [first, first + count) of the tile's lanes, which `lane` are, into out[k][lane].
LOWPREC_DEVICE void BringGroups(const MatrixLane& lane, bool last, int64_t first, int count,
                                float* out) {
  for (int k = last ? TileY() : TileX(); k < count; k += kGpuTile) {
    out[k * kAlignedStep + TileLane(last)] = lane.inside ? lane.At(first + k) : 0.0f;
  }
}

__global__ void AlignedMatMulKernel(AlignedMatMulTask task, GpuTiles tiles) {
  LOWPREC_SHARED float left[kAlignedStage * kAlignedStep], right[kAlignedStage * kAlignedStep];
  const AlignedSpec spec = SpecOf(task);
  const bool a_last = task.transpose_a, b_last = !task.transpose_b;
  const bool fits = task.group <= kAlignedStage;
  for (int64_t index = blockIdx.x; index < tiles.Count(); index += gridDim.x) {
    const GpuTile tile(tiles, index);
    const float* const a = task.a + tile.batch * task.m * task.k;
    const float* const b = task.b + tile.batch * task.k * task.n;
    const int64_t row = tile.row + TileY(), column = tile.column + TileX();
    const bool inside = row < task.m && column < task.n;
    AlignedSum sum(task.promote);
    if (fits) {
      const MatrixLane a_lane(a, a_last, tile.row + TileLane(a_last), task.m, task.k);
      const MatrixLane b_lane(b, b_last, tile.column + TileLane(b_last), task.n, task.k);
      const int64_t stage = kAlignedStage / task.group * task.group;
      for (int64_t first = 0; first < task.k; first += stage) {
        const int count = static_cast<int>(task.k - first < stage ? task.k - first : stage);
        BringGroups(a_lane, a_last, first, count, left);
        BringGroups(b_lane, b_last, first, count, right);
        __syncthreads();
        const int group = static_cast<int>(task.group);
        for (int k = 0; k < count; k += group) {
          sum.AddGroup(spec, left + k * kAlignedStep + TileY(), kAlignedStep,
                       right + k * kAlignedStep + TileX(), kAlignedStep,
                       count - k < group ? count - k : group);
        }
        __syncthreads();
      }
    } else if (inside) {
      const MatrixLane a_lane(a, a_last, row, task.m, task.k);
      const MatrixLane b_lane(b, b_last, column, task.n, task.k);
      for (int64_t k = 0; k < task.k; k += task.group) {
        const int64_t rest = task.k - k;
        sum.AddGroup(spec, a_lane.x + k * a_lane.step, a_lane.step, b_lane.x + k * b_lane.step,
                     b_lane.step, static_cast<int>(rest < task.group ? rest : task.group));
      }
    }
    if (inside) task.c[(tile.batch * task.m + row) * task.n + column] = sum.Result();
  }
}

inline void LaunchAlignedMatMulTiles(const AlignedMatMulTask& task, int64_t batches, void* stream) {
  const GpuTiles tiles = {task.m, task.n, batches, kGpuTile};
  LOWPREC_LAUNCH_SYNCHRONIZED(AlignedMatMulKernel, GpuBlocks(tiles.Count()), kGpuThreads, stream,
                              task, tiles);
}

LOWPREC_END_NAMESPACE

#endif  // TF_LOWPREC_CC_KERNELS_ALIGNED_MATMUL_GPU_H_
