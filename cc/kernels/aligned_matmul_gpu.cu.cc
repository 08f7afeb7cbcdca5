// Compiled by nvcc, without TensorFlow's headers: they would take it a minute.
#include "cc/kernels/aligned_matmul_gpu.h"

namespace tf_lowprec {
const char* LaunchAlignedMatMul(const AlignedMatMulTask& task, int64_t batches, void* stream) {
  LaunchAlignedMatMulTiles(task, batches, stream);
  return LaunchError();
}
}  // namespace tf_lowprec
