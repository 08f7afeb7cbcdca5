// The scales that sums drift in keep every number within float32, and float32's normal numbers.
#include "cc/kernels/drifting_scale.h"

#include <algorithm>
#include <random>

#include "gtest/gtest.h"

namespace tf_lowprec {
namespace {

// Any bounds that operands and sums may have; where they allow a scale, it holds what is between.
TEST(DriftingScale, HoldsAllBetweenTheBounds) {
  std::mt19937 random(3);
  const auto between = [&random](int low, int high) {
    return low + static_cast<int>(random() % static_cast<unsigned>(high - low + 1));
  };
  int found = 0;
  for (int i = 0; i < 200000; ++i) {
    const int m = between(0, 10), drop = 23 - m;
    const int b_quantum = between(-149, 100), b_exponent = b_quantum + between(1, 60);
    const int a_quantum = between(-149, 100), a_exponent = a_quantum + between(1, 60);
    const int product_quantum = a_quantum + b_quantum;
    const int sum = std::min(a_exponent + b_exponent + between(0, 12), 120);
    if (b_exponent > 128 || product_quantum < -149 || sum < product_quantum) continue;
    const DriftingScale drift = DriftWithin(m, sum, product_quantum, b_quantum, b_exponent);
    if (drift.period == 0) continue;
    ++found;
    EXPECT_EQ(drift.drop, drop);
    for (int k = 0; k < drift.period; ++k) {
      const int exponent = drift.Exponent(k);
      EXPECT_GE(b_quantum + exponent, -126);
      EXPECT_LE(b_exponent + exponent, 127);
      // Sums before the step, what is subtracted from them, and sums after it.
      EXPECT_GE(product_quantum + exponent, -126);
      EXPECT_LE(sum + exponent, 126);
      // Powers of two that take numbers there and back.
      EXPECT_GE(exponent, -126);
      EXPECT_LE(exponent, 126);
    }
    // The last step takes them up before it subtracts.
    EXPECT_LE(sum + drift.first + drop, 126);
    EXPECT_LE(drop * drift.period, 127);
    if (HasFailure()) {
      FAIL() << "m = " << m << ", sums to 2^" << sum << ", products from 2^" << product_quantum
             << ", right operand from 2^" << b_quantum << " to 2^" << b_exponent;
    }
  }
  EXPECT_GT(found, 10000);
}

// Of formats whose sums drift whatever the values, or hardly ever do.
TEST(DriftingScale, IsExpectedWhereFormatsAllowIt) {
  const OperandSpec e5m2 = {3, -16, 16}, e4m3 = {4, -9, 9}, fp16 = {11, -24, 16}, float32;
  const auto is_expected = [](int m, const OperandSpec& operand, Rounding rounding) {
    AccumulatorSpec spec;
    spec.exponent_bits = 6;
    spec.mantissa_bits = m;
    spec.rounding = static_cast<int>(rounding);
    spec.chunk = 64;
    return ExpectDrift(spec, operand, operand, 1000).period > 0;
  };
  const Rounding nearest = Rounding::kNearestEven;
  for (int m = 5; m <= 10; ++m) EXPECT_TRUE(is_expected(m, e5m2, nearest)) << m;
  for (int m = 7; m <= 10; ++m) EXPECT_TRUE(is_expected(m, e4m3, nearest)) << m;
  EXPECT_FALSE(is_expected(4, e5m2, nearest));  // float64, or float32 for few terms
  EXPECT_FALSE(is_expected(6, e4m3, nearest));
  EXPECT_FALSE(is_expected(11, e5m2, nearest));
  EXPECT_FALSE(is_expected(9, fp16, nearest));
  EXPECT_FALSE(is_expected(9, float32, nearest));
  EXPECT_FALSE(is_expected(9, e5m2, Rounding::kTowardZero));
  EXPECT_FALSE(is_expected(9, e5m2, Rounding::kStochastic));
}

}  // namespace
}  // namespace tf_lowprec
