// What only the shim can show of CUDA kernels: their loops, in a grid that is too small.
#include "cc/kernels/gpu_shim.h"

#include <cstring>
#include <random>
#include <vector>

#include "cc/kernels/quantize_gpu.h"
#include "gtest/gtest.h"

namespace tf_lowprec {
namespace {

TEST(GpuShim, ManyElementsStrideOverTheGrid) {
  const int64_t n = 5000;
  std::mt19937 random(7);
  std::normal_distribution<float> normal(0, 2);
  std::vector<float> x(n), want(n), got(n);
  for (float& value : x) value = normal(random);
  QuantizeTask task;
  task.exponent_bits = 5;
  task.mantissa_bits = 2;
  task.x32 = x.data();
  task.y = want.data();
  ChooseQuantize()(task, 0, n);
  const FloatFormat format = {5, 2, Specials::kIeee, false, true};
  const FloatFunctor<Rounding::kNearestEven, false, float> round = {
      MakeFloatRounder<float>(format, Rounding::kNearestEven)};
  LOWPREC_LAUNCH((QuantizeKernel<Rounding::kNearestEven, float, decltype(round)>), 1u, 32u, nullptr,
                 x.data(), got.data(), n, round, PhiloxKey{0, 0}, uint64_t{0}, nullptr, false);
  EXPECT_EQ(memcmp(got.data(), want.data(), n * sizeof(float)), 0);
}

}  // namespace
}  // namespace tf_lowprec
