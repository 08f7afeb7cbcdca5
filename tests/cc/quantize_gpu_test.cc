// The CUDA kernels' bodies, compiled for the host against gpu_shim.h, give the bits of the CPU's
// kernels.
#include "cc/kernels/quantize_gpu.h"

#include <cstring>
#include <iostream>
#include <limits>
#include <random>
#include <vector>

#include "cc/kernels/float_mode.h"
#include "gtest/gtest.h"

namespace tf_lowprec {
namespace {

int64_t compared = 0;

std::vector<QuantizeTask> Formats() {
  std::vector<QuantizeTask> tasks;
  const auto add_float = [&tasks](int e, int m, Specials specials, bool saturate = false,
                                  bool subnormals = true) {
    QuantizeTask t;
    t.exponent_bits = e;
    t.mantissa_bits = m;
    t.specials = static_cast<int>(specials);
    t.saturate = saturate;
    t.subnormals = subnormals;
    tasks.push_back(t);
  };
  add_float(5, 2, Specials::kIeee);
  add_float(4, 3, Specials::kFn);
  add_float(4, 3, Specials::kFn, true);
  add_float(3, 2, Specials::kFinite);
  add_float(2, 1, Specials::kFinite);
  add_float(5, 10, Specials::kIeee);
  add_float(8, 7, Specials::kIeee);
  add_float(8, 23, Specials::kIeee);
  add_float(6, 9, Specials::kDlfloat, false, false);
  add_float(5, 2, Specials::kIeee, false, false);
  add_float(6, 0, Specials::kIeee);
  for (const auto& [il, fl] : {std::pair{2, 14}, {8, 8}, {1, 0}, {1, 23}, {24, 0}}) {
    QuantizeTask t;
    t.is_fixed = true;
    t.integer_bits = il;
    t.fractional_bits = fl;
    tasks.push_back(t);
  }
  return tasks;
}

// Half around 1, where most formats round; half any bit pattern, NaN, inf and subnormals included.
template <typename T>
std::vector<T> Inputs(int64_t n) {
  std::mt19937_64 random(7);
  std::normal_distribution<double> normal(0, 2);
  std::vector<T> x(n);
  for (int64_t i = 0; i < n; ++i) {
    x[i] = i % 2 == 0 ? static_cast<T>(normal(random))
                      : FromBits<T>(static_cast<typename Carrier<T>::UInt>(random()));
  }
  return x;
}

template <typename T>
void ExpectSameBits(int64_t n, bool with_random_bits) {
  const ScopedDenormals denormals;
  const std::vector<T> x = Inputs<T>(n);
  std::vector<int32_t> random_bits(n);
  std::mt19937 random(8);
  for (int32_t& r : random_bits) r = static_cast<int32_t>(random() >> 8);
  const QuantizeFn cpu = ChooseQuantize();
  for (QuantizeTask task : Formats()) {
    if constexpr (std::is_same_v<T, float>) {
      task.x32 = x.data();
    } else {
      task.x64 = x.data();
    }
    task.seed[0] = 0xDEADBEEF;
    task.seed[1] = 5;
    task.stream = (uint64_t{9} << 32) + 20;
    if (with_random_bits) task.random_bits = random_bits.data();
    for (int rounding = 0; rounding < 4; ++rounding) {
      task.rounding = rounding;
      std::vector<float> want(n), got(n);
      task.y = want.data();
      cpu(task, 0, n);
      task.y = got.data();
      LaunchQuantizeOf(task, x.data(), n, nullptr);
      ASSERT_EQ(memcmp(got.data(), want.data(), n * sizeof(float)), 0)
          << "format (" << task.exponent_bits << ", " << task.mantissa_bits << ") or <"
          << task.integer_bits << ", " << task.fractional_bits << ">, rounding " << rounding;
      compared += n;
    }
  }
}

TEST(QuantizeGpu, FloatHasTheBitsOfTheCpu) { ExpectSameBits<float>(10007, false); }
TEST(QuantizeGpu, DoubleHasTheBitsOfTheCpu) { ExpectSameBits<double>(5003, false); }
TEST(QuantizeGpu, RandomBitsHaveTheBitsOfTheCpu) { ExpectSameBits<float>(1025, true); }

TEST(QuantizeGpu, EveryTailOfFourIsWritten) {
  for (int64_t n = 1; n < 10; ++n) ExpectSameBits<float>(n, false);
}

TEST(QuantizeGpu, ManyElementsStrideOverTheGrid) {
  // More threads' worth of elements than a grid of one block: the loop has to come round.
  const int64_t n = 5000;
  const std::vector<float> x = Inputs<float>(n);
  QuantizeTask task = Formats()[0];
  task.x32 = x.data();
  std::vector<float> want(n), got(n);
  task.y = want.data();
  ChooseQuantize()(task, 0, n);
  const FloatFormat format = {5, 2, Specials::kIeee, false, true};
  const FloatFunctor<Rounding::kNearestEven, false, float> round = {
      MakeFloatRounder<float>(format, Rounding::kNearestEven)};
  LOWPREC_LAUNCH((QuantizeKernel<Rounding::kNearestEven, float, decltype(round)>), 1u, 32u, nullptr,
                 x.data(), got.data(), n, round, PhiloxKey{0, 0}, uint64_t{0}, nullptr);
  EXPECT_EQ(memcmp(got.data(), want.data(), n * sizeof(float)), 0);
}

TEST(QuantizeGpu, GradientIsStraightThrough) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const std::vector<float> x = {-2.1f, -2.0f, 0.0f, 1.5f, 1.6f, nan};
  const std::vector<float> dy = {1, 2, 3, 4, 5, 6};
  std::vector<float> dx(x.size());
  LaunchQuantizeGradOf(dy.data(), x.data(), dx.data(), 6, -2.0f, 1.5f, nullptr);
  EXPECT_EQ(dx, (std::vector<float>{0, 2, 3, 4, 0, 6}));
}

// Last: how much was compared.
TEST(QuantizeGpu, ZzzCount) {
  std::cout << compared << " outputs compared bit for bit\n";
  EXPECT_GT(compared, 1000000);
}

}  // namespace
}  // namespace tf_lowprec
