// Compiled by nvcc, without TensorFlow's headers: they would take it a minute.
#include "cc/kernels/quantize_gpu.h"

namespace tf_lowprec {

const char* LaunchQuantize(const QuantizeTask& task, int64_t n, void* stream) {
  if (task.x32 != nullptr) {
    LaunchQuantizeOf(task, task.x32, n, stream);
  } else {
    LaunchQuantizeOf(task, task.x64, n, stream);
  }
  return LaunchError();
}

const char* LaunchQuantizeGrad(const float* dy, const float* x, float* dx, int64_t n, float lowest,
                               float highest, void* stream) {
  LaunchQuantizeGradOf(dy, x, dx, n, lowest, highest, stream);
  return LaunchError();
}

const char* LaunchQuantizeGrad(const float* dy, const double* x, double* dx, int64_t n,
                               double lowest, double highest, void* stream) {
  LaunchQuantizeGradOf(dy, x, dx, n, lowest, highest, stream);
  return LaunchError();
}

}  // namespace tf_lowprec
