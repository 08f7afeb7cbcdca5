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

  LOWPREC_HD GpuTiles Tiles(int size) const { return {task.m, task.n, task.batches, size}; }
  int64_t LeftSize() const { return Elements(task.m * task.k, task.a_step); }
  int64_t RightSize() const { return Elements(task.k * task.n, task.b_step); }
  LOWPREC_HD int64_t Length() const { return task.k; }
  LOWPREC_HD int64_t Element(int64_t batch, int64_t row, int64_t column) const {
    return (batch * task.m + row) * task.n + column;
  }
  LOWPREC_HD bool LeftLanesLast() const { return task.transpose_a; }
  LOWPREC_HD bool RightLanesLast() const { return !task.transpose_b; }
  LOWPREC_DEVICE MatrixLane Left(int64_t batch, int64_t row) const {
    return {task.a + batch * task.a_step, LeftLanesLast(), row, task.m, task.k};
  }
  LOWPREC_DEVICE MatrixLane Right(int64_t batch, int64_t column) const {
    return {task.b + batch * task.b_step, RightLanesLast(), column, task.n, task.k};
  }

 private:
  int64_t Elements(int64_t matrix, int64_t step) const {
    return task.batches > 0 ? matrix + (task.batches - 1) * step : 0;
  }
};

inline void LaunchMatMulTiles(const GpuMatMulTask& task, void* stream) {
  MatMulProduct product;
  product.task = task;
  LaunchNarrowProduct(product, stream);
}

LOWPREC_END_NAMESPACE

#endif  // TF_LOWPREC_CC_KERNELS_MATMUL_GPU_H_
