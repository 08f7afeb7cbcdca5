// The CUDA kernel of Lowprec>MatMul: operands and launch. Included by matmul_gpu.cu.cc for nvcc,
// and by the tests for the host, against gpu_shim.h.
#ifndef TF_LOWPREC_CC_KERNELS_MATMUL_GPU_H_
#define TF_LOWPREC_CC_KERNELS_MATMUL_GPU_H_

#include "cc/kernels/gemm_gpu.h"

LOWPREC_BEGIN_NAMESPACE

// As NarrowProductKernel wants it.
struct MatMulProduct {
  static constexpr bool kLeavesOut = false;
  GpuMatMulTask task;

  LOWPREC_HD GpuTiles Tiles() const { return {task.m, task.n, task.batches}; }
  LOWPREC_HD int64_t Length() const { return task.k; }
  LOWPREC_HD int64_t Element(int64_t batch, int64_t row, int64_t column) const {
    return (batch * task.m + row) * task.n + column;
  }
  LOWPREC_DEVICE MatrixLane Left(const GpuTile& tile) const {
    return {task.a + tile.batch * task.a_step, task.transpose_a, tile.row, task.m, task.k};
  }
  LOWPREC_DEVICE MatrixLane Right(const GpuTile& tile) const {
    return {task.b + tile.batch * task.b_step, !task.transpose_b, tile.column, task.n, task.k};
  }
};

inline void LaunchMatMulTiles(const GpuMatMulTask& task, void* stream) {
  LaunchNarrowProduct(MatMulProduct{task}, stream);
}

LOWPREC_END_NAMESPACE

#endif  // TF_LOWPREC_CC_KERNELS_MATMUL_GPU_H_
