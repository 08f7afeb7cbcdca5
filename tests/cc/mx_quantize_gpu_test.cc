// The CUDA kernel of QuantizeMx, on a GPU or compiled for the host against gpu_shim.h, gives the
// bits of the CPU's loops.
#include <vector>

#include "cc/kernels/float_mode.h"
#include "gtest/gtest.h"
#include "tests/cc/gpu_memory.h"
#include "tests/cc/gpu_outputs.h"
#include "tests/cc/mx_problem.h"

namespace tf_lowprec {
namespace {

LOWPREC_GPU_TEST;

template <typename T>
void ExpectTheCpusBits(MxTask task) {
  const ScopedDenormals denormals;
  const std::vector<T> x = mx::Inputs<T>(task.outer * task.length * task.inner);
  const mx::MxBlocks want = mx::Quantize(task, x);
  GpuArray<T> device_x(x);
  GpuArray<float> y(static_cast<int64_t>(want.y.size()));
  GpuArray<uint8_t> scales(static_cast<int64_t>(want.scales.size()));
  mx::Read(device_x.data(), &task);
  task.element.y = y.data();
  task.scales = scales.data();
  LaunchQuantizeMx(task, nullptr);
  ExpectSameBits("QuantizeMx", y.Fetch(), want.y, task);
  ExpectSameBits("QuantizeMx scales", scales.Fetch(), want.scales, task);
}

TEST(MxQuantizeGpu, Formats) {
  mx::ForEachFormat([](MxTask task) {
    task.outer = 9;
    task.length = 200;
    ExpectTheCpusBits<float>(task);
    ExpectTheCpusBits<double>(task);
  });
}

TEST(MxQuantizeGpu, ShapesAndBlocks) {
  MxTask task = mx::Task(4, 3, Specials::kFn);
  for (const Rounding rounding : {Rounding::kNearestEven, Rounding::kStochastic}) {
    task.element.rounding = static_cast<int>(rounding);
    mx::ForEachShape(task, ExpectTheCpusBits<float>);
  }
}

}  // namespace
}  // namespace tf_lowprec
