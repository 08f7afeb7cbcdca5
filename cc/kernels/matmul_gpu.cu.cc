// Compiled by nvcc, without TensorFlow's headers: they would take it a minute.
#include "cc/kernels/matmul_gpu.h"

namespace tf_lowprec {
void LaunchMatMul(const GpuMatMulTask& task, void* stream) { LaunchMatMulTiles(task, stream); }
}  // namespace tf_lowprec
