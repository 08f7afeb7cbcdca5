// Products as tensor cores add them, for the tests: operands of any format, and what is right, in
// 128-bit integers.
#ifndef TF_LOWPREC_TESTS_CC_ALIGNED_PROBLEM_H_
#define TF_LOWPREC_TESTS_CC_ALIGNED_PROBLEM_H_

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <random>
#include <vector>

#include "cc/kernels/aligned_matmul.h"
#include "gtest/gtest.h"

namespace tf_lowprec {
namespace aligned {

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
inline float Draw(std::mt19937& random, const Format& f) {
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

inline int Exponent(float x, int lowest) { return std::max(std::ilogb(x), lowest); }

inline Integer ToUnits(float x) {  // the conversion is exact
  const double scaled = std::ldexp(static_cast<double>(x), kUnit);
  int exponent = 0;
  const double fraction = std::frexp(scaled, &exponent);
  const auto significand = static_cast<int64_t>(std::ldexp(fraction, 53));
  const int shift = exponent - 53;
  EXPECT_TRUE(shift >= 0 || significand % (int64_t{1} << std::min(-shift, 62)) == 0);
  return shift >= 0 ? Integer{significand} * (Integer{1} << shift)
                    : Integer{significand} / (Integer{1} << -shift);
}

inline Integer Cut(Integer x, int bits) {
  if (bits <= 0) return x;
  const Integer unit = Integer{1} << bits;
  return x / unit * unit;  // toward zero
}

inline float Round(Integer sum, const Problem& p) {
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

inline float Dot(const Problem& p, int64_t i, int64_t j) {
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

// [rows, columns] as it is kept if it is transposed or not.
inline std::vector<float> Layout(const std::vector<float>& x, int64_t rows, int64_t columns,
                                 bool transpose) {
  std::vector<float> out(x);
  for (int64_t i = 0; transpose && i < rows; ++i) {
    for (int64_t j = 0; j < columns; ++j) out[j * rows + i] = x[i * columns + j];
  }
  return out;
}

// Without operands and output.
inline AlignedMatMulTask MakeTask(const Problem& p, bool transpose_a, bool transpose_b) {
  AlignedMatMulTask task;
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
  return task;
}

// On the CPU.
inline std::vector<float> Multiply(const Problem& p, bool transpose_a, bool transpose_b) {
  const std::vector<float> a = Layout(p.a, p.m, p.k, transpose_a);
  const std::vector<float> b = Layout(p.b, p.k, p.n, transpose_b);
  std::vector<float> c(p.m * p.n, -1);
  AlignedMatMulTask task = MakeTask(p, transpose_a, transpose_b);
  task.a = a.data();
  task.b = b.data();
  task.c = c.data();
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

}  // namespace aligned
}  // namespace tf_lowprec

#endif  // TF_LOWPREC_TESTS_CC_ALIGNED_PROBLEM_H_
