// AlignedMatMul against 128-bit integers, on every instruction set that this CPU has.
#include "cc/kernels/aligned_matmul.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <limits>
#include <random>
#include <string>
#include <vector>

namespace tf_lowprec {
namespace {

using Integer = __int128;

// All that the operands below multiply and add up to are multiples of 2^-kUnit.
constexpr int kUnit = 48;

struct Format {
  int exponent_bits, mantissa_bits;
  int MinExponent() const { return 2 - (1 << (exponent_bits - 1)); }
  AlignedOperand Operand() const { return {exponent_bits, mantissa_bits, MinExponent()}; }
};

constexpr Format kE5M2 = {5, 2}, kE4M3 = {4, 3}, kFp16 = {5, 10};

// A finite number of the format: zeros, subnormal numbers and the largest among them.
float Draw(std::mt19937& random, const Format& f) {
  const int codes = 1 << (f.exponent_bits + f.mantissa_bits);
  const int code =
      static_cast<int>(random() % static_cast<unsigned>(codes - (1 << f.mantissa_bits)));
  const int field = code >> f.mantissa_bits, fraction = code & ((1 << f.mantissa_bits) - 1);
  const int significand = fraction | (field > 0 ? 1 << f.mantissa_bits : 0);
  const int exponent = f.MinExponent() + std::max(field - 1, 0) - f.mantissa_bits;
  const float x = std::ldexp(static_cast<float>(significand), exponent);
  return (random() & 1) != 0 ? -x : x;
}

struct Problem {
  int64_t m, k, n;
  Format a_format = kE5M2, b_format = kE5M2;
  int64_t group = 32;
  int fraction_bits = 13, mantissa_bits = 13;
  bool nearest = false;
  int64_t promote = 0;
  std::vector<float> a = {}, b = {};  // [m, k] and [k, n]

  void Fill(uint32_t seed) {
    std::mt19937 random(seed);
    a.resize(m * k);
    b.resize(k * n);
    for (float& x : a) x = Draw(random, a_format);
    for (float& x : b) x = Draw(random, b_format);
  }
};

int Exponent(float x, int lowest) { return std::max(std::ilogb(x), lowest); }

Integer ToUnits(float x) {  // the conversion is exact
  const double scaled = std::ldexp(static_cast<double>(x), kUnit);
  int exponent = 0;
  const double fraction = std::frexp(scaled, &exponent);
  const auto significand = static_cast<int64_t>(std::ldexp(fraction, 53));
  const int shift = exponent - 53;
  EXPECT_TRUE(shift >= 0 || significand % (int64_t{1} << std::min(-shift, 62)) == 0);
  return shift >= 0 ? Integer{significand} * (Integer{1} << shift)
                    : Integer{significand} / (Integer{1} << -shift);
}

Integer Cut(Integer x, int bits) {
  if (bits <= 0) return x;
  const Integer unit = Integer{1} << bits;
  return x / unit * unit;  // toward zero
}

float Round(Integer sum, const Problem& p) {
  Integer magnitude = sum < 0 ? -sum : sum;
  int top = 0;
  while ((magnitude >> top) > 1) ++top;
  const int drop = std::max(top - p.mantissa_bits, 0);
  const Integer unit = Integer{1} << drop, rest = magnitude % unit;
  magnitude -= rest;
  if (p.nearest && (2 * rest > unit || (2 * rest == unit && (magnitude / unit) % 2 == 1))) {
    magnitude += unit;
  }
  const double value = std::ldexp(static_cast<double>(magnitude), -kUnit);
  return static_cast<float>(sum < 0 ? -value : value);
}

float Dot(const Problem& p, int64_t i, int64_t j) {
  float s = 0, total = 0;
  for (int64_t first = 0; first < p.k; first += p.group) {
    const int64_t last = std::min(first + p.group, p.k);
    int largest = -1000;
    if (s != 0) largest = Exponent(s, -126);
    const auto terms = [&](auto f) {
      for (int64_t k = first; k < last; ++k) {
        const float x = p.a[i * p.k + k], y = p.b[k * p.n + j];
        if (x != 0 && y != 0) f(x, y);
      }
    };
    terms([&](float x, float y) {
      const int exponent =
          Exponent(x, p.a_format.MinExponent()) + Exponent(y, p.b_format.MinExponent());
      largest = std::max(largest, exponent);
    });
    const int drop = largest - p.fraction_bits + kUnit;
    Integer sum = Cut(ToUnits(s), drop);
    terms([&](float x, float y) { sum += Cut(ToUnits(x * y), drop); });
    s = Round(sum, p);
    if (p.promote > 0 && last % p.promote == 0) {
      total += s;
      s = 0;
    }
  }
  return p.promote > 0 ? total + s : s;
}

std::vector<float> Multiply(const Problem& p, bool transpose_a, bool transpose_b) {
  const auto layout = [](const std::vector<float>& x, int64_t rows, int64_t columns, bool swap) {
    std::vector<float> out(x);
    for (int64_t i = 0; swap && i < rows; ++i) {
      for (int64_t j = 0; j < columns; ++j) out[j * rows + i] = x[i * columns + j];
    }
    return out;
  };
  const std::vector<float> a = layout(p.a, p.m, p.k, transpose_a);
  const std::vector<float> b = layout(p.b, p.k, p.n, transpose_b);
  AlignedMatMulTask task;
  std::vector<float> c(p.m * p.n, -1);
  task.a = a.data();
  task.b = b.data();
  task.c = c.data();
  task.m = p.m;
  task.n = p.n;
  task.k = p.k;
  task.transpose_a = transpose_a;
  task.transpose_b = transpose_b;
  task.a_format = p.a_format.Operand();
  task.b_format = p.b_format.Operand();
  task.group = p.group;
  task.fraction_bits = p.fraction_bits;
  task.mantissa_bits = p.mantissa_bits;
  task.nearest = p.nearest;
  task.promote = p.promote;
  const int64_t packed = task.Panels() * p.k * AlignedMatMulTask::kLanes;
  std::vector<float> packed_a(p.m * p.k), packed_b(packed);
  std::vector<int8_t> a_exponents(p.m * p.k), b_exponents(packed);
  std::vector<uint8_t> a_is_special(p.m), b_is_special(task.Panels());
  task.packed_a = packed_a.data();
  task.a_exponents = a_exponents.data();
  task.a_is_special = a_is_special.data();
  task.packed_b = packed_b.data();
  task.b_exponents = b_exponents.data();
  task.b_is_special = b_is_special.data();
  const AlignedMatMul kernel = ChooseAlignedMatMul();
  kernel.pack_a(task, 0, p.m);
  kernel.pack_b(task, 0, task.Panels());
  kernel.multiply(task, 0, AlignedMatMul::Tiles(task));
  return c;
}

class AlignedMatMulTest : public ::testing::TestWithParam<const char*> {
 protected:
  void SetUp() override { setenv("TF_LOWPREC_ISA", GetParam(), 1); }
  void TearDown() override { unsetenv("TF_LOWPREC_ISA"); }

  static void ExpectExact(Problem p, uint32_t seed = 1) {
    p.Fill(seed);
    for (int transpose = 0; transpose < 4; ++transpose) {
      const std::vector<float> c = Multiply(p, (transpose & 1) != 0, (transpose & 2) != 0);
      for (int64_t i = 0; i < p.m; ++i) {
        for (int64_t j = 0; j < p.n; ++j) {
          ASSERT_EQ(c[i * p.n + j], Dot(p, i, j))
              << i << ", " << j << " of " << p.m << "x" << p.k << "x" << p.n << ", groups of "
              << p.group << ", " << p.fraction_bits << " fraction bits, transposes " << transpose;
        }
      }
    }
  }
};

TEST_P(AlignedMatMulTest, EveryShapeIsExact) {
  const int64_t shapes[][3] = {{1, 1, 1},   {3, 0, 4},    {5, 31, 7},
                               {2, 32, 32}, {65, 33, 33}, {9, 200, 70}};
  for (const auto& s : shapes) ExpectExact({s[0], s[1], s[2]});
}

TEST_P(AlignedMatMulTest, EveryPairOfFormatsIsExact) {
  for (const Format& a : {kE5M2, kE4M3, kFp16}) {
    for (const Format& b : {kE5M2, kE4M3, kFp16}) ExpectExact({6, 150, 40, a, b});
  }
}

// Groups up to the longest, sums and terms of other widths, to nearest: the vector loop and the
// integers behind it.
TEST_P(AlignedMatMulTest, EveryAccumulatorIsExact) {
  for (const int64_t group : {1, 4, 16, 32, 100}) {
    for (const int fraction_bits : {0, 7, 13, 20, 26}) {
      for (const bool nearest : {false, true}) {
        for (const int64_t promote : {int64_t{0}, 2 * group}) {
          ExpectExact({4, 130, 35, kE4M3, kE5M2, group, fraction_bits,
                       std::min(fraction_bits + 2, 23), nearest, promote});
        }
      }
    }
  }
}

TEST_P(AlignedMatMulTest, NanAndInfinityStayInTheirRowsAndColumns) {
  Problem p = {5, 40, 37};
  p.Fill(2);
  for (float& x : p.b) x = x == 0 ? 1 : x;
  const float infinity = std::numeric_limits<float>::infinity();
  p.a[1 * p.k + 3] = infinity;
  p.a[2 * p.k + 39] = std::nanf("");
  p.a[3 * p.k + 0] = infinity;
  p.a[3 * p.k + 1] = 0;
  p.b[0 * p.n + 36] = 0;
  const std::vector<float> c = Multiply(p, false, false);
  for (int64_t j = 0; j < p.n; ++j) {
    EXPECT_EQ(c[0 * p.n + j], Dot(p, 0, j));
    EXPECT_EQ(c[1 * p.n + j], std::copysign(infinity, p.b[3 * p.n + j]));
    EXPECT_TRUE(std::isnan(c[2 * p.n + j]));
    EXPECT_EQ(std::isnan(c[3 * p.n + j]), j == 36);  // infinity times 0
    EXPECT_EQ(c[4 * p.n + j], Dot(p, 4, j));
  }
}

INSTANTIATE_TEST_SUITE_P(Isa, AlignedMatMulTest, ::testing::Values("portable", "avx2", "avx512"),
                         [](const auto& info) { return std::string(info.param); });

}  // namespace
}  // namespace tf_lowprec
