// The CUDA kernels of Quantize and QuantizeGrad, on a GPU or compiled for the host against
// gpu_shim.h, give the bits of the CPU's kernels.
#include <limits>
#include <random>
#include <vector>

#include "cc/kernels/float_mode.h"
#include "cc/kernels/quantize.h"
#include "cc/numerics/rounding.h"
#include "gtest/gtest.h"
#include "tests/cc/gpu_memory.h"
#include "tests/cc/gpu_outputs.h"

namespace tf_lowprec {

inline std::ostream& operator<<(std::ostream& out, const QuantizeTask& task) {
  return out << "format (" << task.exponent_bits << ", " << task.mantissa_bits << ") or <"
             << task.integer_bits << ", " << task.fractional_bits << ">, rounding "
             << task.rounding;
}

namespace {

LOWPREC_GPU_TEST;

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
void ExpectTheCpusBits(int64_t n, bool with_random_bits) {
  const ScopedDenormals denormals;
  const std::vector<T> x = Inputs<T>(n);
  std::vector<int32_t> random_bits(n);
  std::mt19937 random(8);
  for (int32_t& r : random_bits) r = static_cast<int32_t>(random() >> 8);
  const QuantizeFn cpu = ChooseQuantize();
  GpuArray<T> device_x(x);
  GpuArray<int32_t> device_bits(random_bits);
  for (QuantizeTask task : Formats()) {
    const auto from = [&task](const T* x) {
      if constexpr (std::is_same_v<T, float>) {
        task.x32 = x;
      } else {
        task.x64 = x;
      }
    };
    task.seed[0] = 0xDEADBEEF;
    task.seed[1] = 5;
    task.stream = (uint64_t{9} << 32) + 20;
    for (int rounding = 0; rounding < 4; ++rounding) {
      task.rounding = rounding;
      std::vector<float> want(n);
      from(x.data());
      task.y = want.data();
      task.random_bits = with_random_bits ? random_bits.data() : nullptr;
      cpu(task, 0, n);
      GpuArray<float> y(n);
      from(device_x.data());
      task.y = y.data();
      task.random_bits = with_random_bits ? device_bits.data() : nullptr;
      LaunchQuantize(task, n, nullptr);
      ExpectSameBits("Quantize", y.Fetch(), want, task);
    }
  }
}

TEST(QuantizeGpu, FloatHasTheBitsOfTheCpu) { ExpectTheCpusBits<float>(10007, false); }
TEST(QuantizeGpu, DoubleHasTheBitsOfTheCpu) { ExpectTheCpusBits<double>(5003, false); }
TEST(QuantizeGpu, RandomBitsHaveTheBitsOfTheCpu) { ExpectTheCpusBits<float>(1025, true); }

// As slices of tensors may be.
TEST(QuantizeGpu, AlignmentDoesNotMatter) {
  const int64_t n = 1003;
  const std::vector<float> x = Inputs<float>(n + 4);
  QuantizeTask task = Formats()[0];
  task.rounding = static_cast<int>(Rounding::kStochastic);
  GpuArray<float> device_x(x);
  for (int from = 0; from < 4; ++from) {
    for (int to = 0; to < 4; ++to) {
      std::vector<float> want(n);
      task.x32 = x.data() + from;
      task.y = want.data();
      ChooseQuantize()(task, 0, n);
      GpuArray<float> y(n + 4);
      task.x32 = device_x.data() + from;
      task.y = y.data() + to;
      LaunchQuantize(task, n, nullptr);
      const std::vector<float> all = y.Fetch();
      ExpectSameBits("Quantize", std::vector<float>(all.begin() + to, all.begin() + to + n), want,
                     task);
    }
  }
}

TEST(QuantizeGpu, EveryTailOfFourIsWritten) {
  for (int64_t n = 1; n < 10; ++n) ExpectTheCpusBits<float>(n, false);
}

// NaN lets the error through, as a comparison with it is false.
template <typename T>
void ExpectStraightThrough(int64_t n, T lowest, T highest) {
  const std::vector<T> x = Inputs<T>(n);
  const std::vector<float> dy = Inputs<float>(n);
  std::vector<T> want(n);
  for (int64_t i = 0; i < n; ++i) want[i] = StraightThrough(dy[i], x[i], lowest, highest);
  GpuArray<T> device_x(x), dx(n);
  GpuArray<float> device_dy(dy);
  LaunchQuantizeGrad(device_dy.data(), device_x.data(), dx.data(), n, lowest, highest, nullptr);
  ExpectSameBits("QuantizeGrad", dx.Fetch(), want, testing::PrintToString(n));
}

TEST(QuantizeGpu, GradientHasTheBitsOfTheCpu) {
  for (const int64_t n : {1, 255, 256, 257, 10007}) {
    ExpectStraightThrough<float>(n, -2.0f, 1.5f);
    ExpectStraightThrough<double>(n, -2.0, 1.5);
  }
}

TEST(QuantizeGpu, GradientIsStraightThrough) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  GpuArray<float> x(std::vector<float>{-2.1f, -2.0f, 0.0f, 1.5f, 1.6f, nan});
  GpuArray<float> dy(std::vector<float>{1, 2, 3, 4, 5, 6}), dx(6);
  LaunchQuantizeGrad(dy.data(), x.data(), dx.data(), 6, -2.0f, 1.5f, nullptr);
  EXPECT_EQ(dx.Fetch(), (std::vector<float>{0, 2, 3, 4, 0, 6}));
}

}  // namespace
}  // namespace tf_lowprec
