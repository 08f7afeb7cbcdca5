// Problems that are hard on MatMul's arithmetic.
#ifndef TF_LOWPREC_TESTS_CC_MATMUL_CASES_H_
#define TF_LOWPREC_TESTS_CC_MATMUL_CASES_H_

#include <algorithm>
#include <cstdint>
#include <vector>

#include "tests/cc/accumulate_inputs.h"
#include "tests/cc/matmul_problem.h"

namespace tf_lowprec {

// Values of an operand: floats of `bits` bits with leading bits from 2^low to 2^high, or fixed
// point: multiples of 2^low below 2^(high + 1).
struct OperandFormat {
  const char* name;
  int bits, low, high;
  bool fixed;
  int min_quantum;

  OperandSpec Spec() const { return {bits, min_quantum}; }
};

const OperandFormat kOperandFormats[] = {
    {"E5M2", 3, -16, 15, false, -16},     {"E4M3", 4, -9, 8, false, -9},
    {"E2M1", 2, -1, 2, false, -1},        {"FP16", 11, -24, 15, false, -24},
    {"BF16", 8, -133, 127, false, -133},  {"E8M2", 3, -128, 127, false, -128},
    {"TF32", 11, -136, 127, false, -136}, {"FP32", 24, -149, 127, false, -149},
    {"<2,14>", 15, -14, 0, true, -14},    {"<1,4>", 4, -4, -1, true, -4},
    {"<8,16>", 23, -16, 6, true, -16},
};

// One value with its leading bit from 2^low to 2^high: on the format's grid.
inline uint32_t OperandValue(Inputs& inputs, const OperandFormat& f, int low, int high) {
  low = std::max(low, f.low);
  high = std::min(high, f.high);
  if (high < low) high = low;
  const int exponent = inputs.Between(low, high);
  const int room = exponent - f.min_quantum + 1;
  return inputs.Value(exponent, std::max(1, std::min(f.bits, room)));
}

// How the exponents of a problem's values spread, below the largest.
struct Spread {
  int a_high, a_width, b_high, b_width;
};

inline void FillRandom(Inputs& inputs, const OperandFormat& a, const OperandFormat& b,
                       const Spread& spread, Problem* p) {
  p->Resize();
  p->a_spec = a.Spec();
  p->b_spec = b.Spec();
  for (uint32_t& x : p->a) {
    x = OperandValue(inputs, a, spread.a_high - spread.a_width, spread.a_high);
  }
  for (uint32_t& x : p->b) {
    x = OperandValue(inputs, b, spread.b_high - spread.b_width, spread.b_high);
  }
}

// Exponents such that sums lie somewhere in the accumulator's range, its ends included.
inline Spread AnySpread(Inputs& inputs, const Problem& p, const OperandFormat& a,
                        const OperandFormat& b) {
  const FloatFormat f = p.Format();
  const int low = oracle::LowestExponent(f) - f.mantissa_bits - 4;
  const int high = oracle::LeadingExponent(oracle::Largest(f));
  const int widths[] = {0, 1, 3, 7, 15, 40, 300};
  const int product = inputs.OneIn(3)   ? (low + high) / 2 + inputs.Between(-3, 3)
                      : inputs.OneIn(2) ? inputs.Between(low, low + f.mantissa_bits + 12)
                                        : inputs.Between(low, high + 1);
  const int lowest_a = std::max(a.low, product - b.high);
  const int highest_a = std::max(lowest_a, std::min(a.high, product - b.low));
  const int middle = std::min(std::max(product / 2, lowest_a), highest_a);
  const int a_high = inputs.OneIn(2)
                         ? middle
                         : std::min(std::max(middle + inputs.Between(-9, 9), lowest_a), highest_a);
  const int b_high = std::min(std::max(product - a_high, b.low), b.high);
  return {a_high, inputs.OneOf(widths), b_high, inputs.OneOf(widths)};
}

// Zeros of both signs.
inline void MakeSparse(Inputs& inputs, Problem* p) {
  for (uint32_t& x : p->a) {
    if (inputs.OneIn(2)) x &= oracle::kSign;
  }
  for (uint32_t& x : p->b) {
    if (inputs.OneIn(3)) x &= oracle::kSign;
  }
}

// Steps that take back what steps before them added: the step before, or all of a half.
inline void MakeCancel(Inputs& inputs, Problem* p) {
  const int64_t distance = inputs.OneIn(2) ? 1 : (p->k + 1) / 2;
  for (int64_t k = distance; k < p->k; ++k) {
    if (distance == 1 && k % 2 == 0) continue;
    for (int64_t row = 0; row < p->m; ++row) {
      p->a[row * p->k + k] = Negated(p->a[row * p->k + k - distance]);
    }
    if (inputs.OneIn(4)) continue;
    for (int64_t column = 0; column < p->n; ++column) {
      p->b[k * p->n + column] = p->b[(k - distance) * p->n + column];
    }
  }
}

inline void AddSpecials(Inputs& inputs, Problem* p) {
  const uint32_t values[] = {oracle::kInf, oracle::kNan, oracle::kInf | oracle::kSign, 0,
                             oracle::kSign};
  const int64_t count = 1 + inputs.Below(3);
  for (int64_t i = 0; i < count && p->k > 0; ++i) {
    std::vector<uint32_t>& x = inputs.OneIn(2) ? p->a : p->b;
    x[inputs.Below(static_cast<int64_t>(x.size()))] = inputs.OneOf(values);
  }
}

// `count` pieces of at most `bits` bits whose sum, from the first on, is x of m + 1 bits.
inline void Cut(uint32_t x, int bits, int count, uint32_t* pieces) {
  const oracle::Signed value = oracle::Decode(x);
  uint64_t rest = static_cast<uint64_t>(value.magnitude.units);
  for (int i = 0; i < count; ++i) {
    uint64_t piece = rest;
    if (rest != 0) {
      const int low = std::max(oracle::Top(rest) + 1 - bits, 0);
      piece = rest >> low << low;
    }
    rest -= piece;
    pieces[i] = oracle::Assemble(value.negative, piece, value.magnitude.exponent);
  }
}

inline int Pieces(int mantissa_bits, int bits) { return (mantissa_bits + bits) / bits; }

// Each row sums up an s of its own, of m + 1 bits, in pieces that are a's values times a unit; then
// comes a product that brings s of some column on a tie, or next to it. With chunks, the product
// is a sum of pieces as well, and they meet in the addition of chunks. The operands have `a_bits`
// and `b_bits`, the product up to `reach` binades above or below the sum.
inline void FillTies(Inputs& inputs, int a_bits, int b_bits, bool chunked, int reach, Problem* p) {
  const FloatFormat f = p->Format();
  const int m = f.mantissa_bits;
  const int pieces = Pieces(m, a_bits);
  p->k = chunked ? 2 * pieces : pieces + 1;
  p->accumulator.chunk = chunked ? pieces : 0;
  p->Resize();
  p->a_spec = {a_bits, -125 - a_bits};
  p->b_spec = {b_bits, -125 - b_bits};
  // Sums around the middle of the range or at its lower end, which is not the operands' own.
  const int lowest = oracle::LowestExponent(f);
  const int highest = oracle::LeadingExponent(oracle::Largest(f)) - 4;
  const int middle = inputs.OneIn(2) ? (lowest + highest) / 2 : lowest + inputs.Between(-1, 2);
  const int unit = middle < -20 ? -60 : 0, b_exponent = unit + inputs.Between(-2, 2);
  for (uint32_t& b : p->b) b = oracle::Assemble(false, 1, unit);
  if (!chunked) {
    for (int64_t column = 0; column < p->n; ++column) {
      p->b[pieces * p->n + column] = inputs.Value(b_exponent, b_bits);
    }
  }
  const auto scaled = [&](uint32_t x) {  // 2^-unit x
    const oracle::Magnitude value = oracle::Decode(x).magnitude;
    return oracle::Assemble((x & oracle::kSign) != 0, static_cast<uint64_t>(value.units),
                            value.exponent - unit);
  };
  for (int64_t row = 0; row < p->m; ++row) {
    uint32_t* a = p->a.data() + row * p->k;
    const int exponent = middle + inputs.Between(-2, 2);
    const uint32_t tie = Tie(inputs, f, exponent);
    const int distance = inputs.Between(-reach, std::min(reach, 3));
    const int product = std::max(exponent + distance, -140);
    uint32_t s;
    if (chunked) {
      const uint32_t sum = inputs.Value(product, m + 1);
      s = Complement(inputs.OneIn(3) ? TieBeside(sum, m) : tie, sum, oracle::kOne, m);
      Cut(scaled(sum), a_bits, pieces, a + pieces);
    } else {
      a[pieces] = inputs.Value(product - b_exponent, a_bits);
      const uint32_t b = p->b[pieces * p->n + row % p->n];
      const uint32_t sum =
          oracle::Step(0, a[pieces], b, oracle::kFloat32, Rounding::kTowardZero, 0);
      s = Complement(inputs.OneIn(3) ? TieBeside(sum, m) : tie, a[pieces], b, m);
    }
    if (oracle::IsInf(s)) s = tie;
    Cut(scaled(OrNeighbour(inputs, s, m)), a_bits, pieces, a);
  }
}

}  // namespace tf_lowprec

#endif  // TF_LOWPREC_TESTS_CC_MATMUL_CASES_H_
