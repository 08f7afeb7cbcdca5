// Compiled by nvcc, without TensorFlow's headers: they would take it a minute.
#include "cc/kernels/wide_matmul_gpu.h"

namespace tf_lowprec {
const char* LaunchWideMatMul(const WideMatMulTask& task, int64_t batches, void* stream) {
  LaunchWideMatMulTiles(task, batches, stream);
  return LaunchError();
}
}  // namespace tf_lowprec
