// QuantizeMx on every instruction set that this CPU has, against one element at a time in double.
#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <string>
#include <vector>

#include "cc/kernels/float_mode.h"
#include "cc/numerics/rounding.h"
#include "gtest/gtest.h"
#include "tests/cc/mx_problem.h"

namespace tf_lowprec {
namespace {

template <Rounding kRounding>
float Round(double x, const FloatFormat& f, uint32_t r) {
  const FloatRounder<double> rounder = MakeFloatRounder<double>(f, kRounding);
  return HasGapAtZero(f) ? RoundToFloat<kRounding, true>(x, rounder, r)
                         : RoundToFloat<kRounding, false>(x, rounder, r);
}

float Round(Rounding rounding, double x, const FloatFormat& f, uint32_t r) {
  switch (rounding) {
    case Rounding::kNearestUp:
      return Round<Rounding::kNearestUp>(x, f, r);
    case Rounding::kStochastic:
      return Round<Rounding::kStochastic>(x, f, r);
    case Rounding::kTowardZero:
      return Round<Rounding::kTowardZero>(x, f, r);
    case Rounding::kNearestEven:
      break;
  }
  return Round<Rounding::kNearestEven>(x, f, r);
}

template <typename T>
mx::MxBlocks Expected(const MxTask& task, const std::vector<T>& x) {
  const QuantizeTask& q = task.element;
  const FloatFormat f = {q.exponent_bits, q.mantissa_bits, static_cast<Specials>(q.specials), true,
                         q.subnormals};
  const int emax = std::ilogb(FloatFromCode(f, FloatMaxCode(f)));
  mx::MxBlocks want;
  want.y.resize(x.size());
  want.scales.resize(task.outer * task.Blocks() * task.inner);
  for (size_t i = 0; i < want.scales.size(); ++i) {
    const int64_t unit = static_cast<int64_t>(i) / task.inner, lane = i % task.inner;
    const int64_t first = unit % task.Blocks() * task.block;
    const int64_t last = std::min(first + task.block, task.length);
    const auto at = [&](int64_t j) {
      return (unit / task.Blocks() * task.length + j) * task.inner + lane;
    };
    double most = 0;
    bool finite = true;
    for (int64_t j = first; j < last; ++j) {
      const double value = std::abs(static_cast<double>(x[at(j)]));
      finite = finite && value < 0x1p128;  // false for NaN
      most = std::max(most, value);
    }
    const int exponent = most == 0 ? -127 : std::max(std::ilogb(most) - emax, -127);
    want.scales[i] = static_cast<uint8_t>(finite ? exponent + 127 : 255);
    for (int64_t j = first; j < last; ++j) {
      const uint32_t r =
          RandomWord(static_cast<uint64_t>(at(j)), q.stream, PhiloxKey{q.seed[0], q.seed[1]}) >>
          (32 - kRandomBits);
      const float y = Round(static_cast<Rounding>(q.rounding),
                            std::ldexp(static_cast<double>(x[at(j)]), -exponent), f, r);
      want.y[at(j)] = finite ? static_cast<float>(std::ldexp(static_cast<double>(y), exponent))
                             : FromBits<float>(kCanonicalNan);
    }
  }
  return want;
}

class MxQuantizeTest : public ::testing::TestWithParam<const char*> {
 protected:
  void SetUp() override { setenv("TF_LOWPREC_ISA", GetParam(), 1); }
  void TearDown() override { unsetenv("TF_LOWPREC_ISA"); }

  template <typename T>
  static void ExpectRight(const MxTask& task) {
    const ScopedDenormals denormals;
    const std::vector<T> x = mx::Inputs<T>(task.outer * task.length * task.inner);
    const mx::MxBlocks got = mx::Quantize(task, x), want = Expected(task, x);
    EXPECT_EQ(got.scales, want.scales) << task;
    for (size_t i = 0; i < x.size(); ++i) {
      ASSERT_EQ(ToBits<float>(got.y[i]), ToBits<float>(want.y[i]))
          << "element " << i << " of " << task << ": " << x[i] << " became " << got.y[i]
          << " and not " << want.y[i];
    }
  }
};

TEST_P(MxQuantizeTest, Formats) {
  mx::ForEachFormat([](MxTask task) {
    task.outer = 9;
    task.length = 200;
    ExpectRight<float>(task);
    ExpectRight<double>(task);
    task.length = 60;
    task.inner = 19;
    ExpectRight<float>(task);
  });
}

TEST_P(MxQuantizeTest, ShapesAndBlocks) {
  MxTask task = mx::Task(4, 3, Specials::kFn);
  for (const Rounding rounding : {Rounding::kNearestEven, Rounding::kStochastic}) {
    task.element.rounding = static_cast<int>(rounding);
    mx::ForEachShape(task, ExpectRight<float>);
  }
}

INSTANTIATE_TEST_SUITE_P(Isa, MxQuantizeTest, ::testing::Values("portable", "avx2", "avx512"),
                         [](const auto& info) { return std::string(info.param); });

}  // namespace
}  // namespace tf_lowprec
