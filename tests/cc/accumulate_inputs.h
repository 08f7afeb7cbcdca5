// Random formats and operands for the tests of accumulation: as floats' bits.
#ifndef TF_LOWPREC_TESTS_CC_ACCUMULATE_INPUTS_H_
#define TF_LOWPREC_TESTS_CC_ACCUMULATE_INPUTS_H_

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <iostream>
#include <random>

#include "gtest/gtest.h"
#include "tests/cc/accumulate_oracle.h"

namespace tf_lowprec {

inline std::ostream& operator<<(std::ostream& out, const FloatFormat& f) {
  return out << "float<" << f.exponent_bits << "," << f.mantissa_bits << ",specials "
             << static_cast<int>(f.specials) << ",saturate " << f.saturate << ",subnormals "
             << f.subnormals << ">";
}

// TF_LOWPREC_LONG=1 asks for many more inputs.
inline bool IsLong() {
  const char* value = std::getenv("TF_LOWPREC_LONG");
  return value != nullptr && value[0] == '1';
}

constexpr Rounding kRoundings[] = {Rounding::kNearestEven, Rounding::kNearestUp,
                                   Rounding::kStochastic, Rounding::kTowardZero};

// Counts what the tests compare, and prints it after the last one.
class Comparisons : public testing::Environment {
 public:
  static void Add(int64_t n) { Count() += n; }
  void TearDown() override { std::cout << "compared " << Count() << " values" << std::endl; }

 private:
  static int64_t& Count() {
    static int64_t count = 0;
    return count;
  }
};

class Inputs {
 public:
  explicit Inputs(uint64_t seed) : engine_(seed) {}

  uint64_t Bits() { return engine_(); }
  int64_t Below(int64_t n) { return static_cast<int64_t>(engine_() % static_cast<uint64_t>(n)); }
  int Between(int low, int high) { return low + static_cast<int>(Below(high - low + 1)); }
  bool OneIn(int n) { return Below(n) == 0; }
  template <typename T, size_t kCount>
  const T& OneOf(const T (&values)[kCount]) {
    return values[Below(kCount)];
  }

  FloatFormat AnyFormat() { return AnyFormat(Between(0, 23)); }
  FloatFormat AnyFormat(int mantissa_bits) {
    FloatFormat f;
    f.exponent_bits = OneIn(3) ? 8 : Between(2, 8);
    f.mantissa_bits = mantissa_bits;
    f.specials = f.exponent_bits == 8 || OneIn(2)
                     ? Specials::kIeee
                     : static_cast<Specials>(Below(mantissa_bits > 0 ? 4 : 3));
    f.saturate = OneIn(4);
    f.subnormals = f.specials != Specials::kDlfloat && !OneIn(5);
    return f;
  }

  // A significand of `bits` bits, of which few or all may be used.
  uint32_t Significand(int bits) {
    const uint32_t top = 1u << (bits - 1);
    switch (Below(5)) {
      case 0:
        return top;
      case 1:
        return top | (top - 1);
      case 2:
        return top | (1u & (top - 1));
      default:
        return top | (static_cast<uint32_t>(engine_()) & (top - 1));
    }
  }

  // A value with its leading bit at 2^exponent, where float32 has it; 0 or the largest beyond.
  uint32_t Value(int exponent, int bits) {
    const uint32_t sign = static_cast<uint32_t>(engine_() >> 63) << 31;
    exponent = std::min(exponent, 127);
    uint32_t significand = Significand(bits);
    int last = exponent - bits + 1;
    while (last < -149) significand >>= 1, ++last;
    return oracle::Assemble(sign != 0, significand, last);
  }

  // r of 16 bits, often at an edge.
  uint32_t RandomR() {
    const uint32_t edges[] = {0, 1, 0x7FFF, 0x8000, 0xFFFF};
    if (OneIn(3)) return OneOf(edges);
    const uint32_t r = static_cast<uint32_t>(Below(1 << 16)) & (~0u << Below(16));
    return (r - static_cast<uint32_t>(Below(2))) & 0xFFFFu;
  }

 private:
  std::mt19937_64 engine_;
};

inline uint32_t Negated(uint32_t x) { return x ^ oracle::kSign; }

// A value halfway between two neighbours of f (if float32 has it) with its leading bit at
// 2^exponent or at f's lowest exponent.
inline uint32_t Tie(Inputs& inputs, const FloatFormat& f, int exponent) {
  const int lowest = oracle::LowestExponent(f);
  if (exponent < lowest) {  // an odd number of half quanta
    const uint32_t below = (1u << f.mantissa_bits) - 1;
    const uint32_t odd = 2 * (static_cast<uint32_t>(inputs.Bits()) & below) + 1;
    const int half = lowest - f.mantissa_bits - 1;
    return half < -149 ? 0 : oracle::Assemble(inputs.OneIn(2), odd, half);
  }
  const int bits = std::min(f.mantissa_bits + 2, 24);
  const uint32_t significand = inputs.Significand(bits) | 1u;
  const int last = exponent - bits + 1;
  return last < -149 ? 0 : oracle::Assemble(inputs.OneIn(2), significand, last);
}

// What has to be added to a b to come as close to `sum` as numbers of m mantissa bits do.
inline uint32_t Complement(uint32_t sum, uint32_t a, uint32_t b, int mantissa_bits) {
  const FloatFormat f = {8, mantissa_bits, Specials::kIeee, true, true};
  return oracle::Step(sum, Negated(a), b, f, Rounding::kNearestEven, 0);
}

// A tie of formats of m < 23 mantissa bits that is half a last place beyond x.
inline uint32_t TieBeside(uint32_t x, int mantissa_bits) {
  const uint32_t half = 1u << (22 - mantissa_bits);
  return (x & ~(2 * half - 1)) | half;
}

// x, or a neighbour of it among numbers of m mantissa bits.
inline uint32_t OrNeighbour(Inputs& inputs, uint32_t x, int mantissa_bits) {
  const uint32_t last = 1u << (23 - mantissa_bits);
  if (oracle::IsZero(x) || !inputs.OneIn(3)) return x;
  return inputs.OneIn(2) ? x + last : x - last;
}

}  // namespace tf_lowprec

#endif  // TF_LOWPREC_TESTS_CC_ACCUMULATE_INPUTS_H_
