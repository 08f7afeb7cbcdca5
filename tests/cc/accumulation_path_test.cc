// The claims about rounding twice at the top of accumulation_path.h, and where ChoosePath relies on
// them.
#include "cc/kernels/accumulation_path.h"

#include <cstdint>

#include "cc/kernels/accumulation_steps.h"
#include "gtest/gtest.h"
#include "tests/cc/accumulate_inputs.h"
#include "tests/cc/accumulate_oracle.h"

namespace tf_lowprec {
namespace {

testing::Environment* const kComparisons = testing::AddGlobalTestEnvironment(new Comparisons);
constexpr Rounding kEven = Rounding::kNearestEven;
constexpr PathSupport kAll = {true, true};

// x to nearest even, of `bits` bits and in units of 2^lowest at least.
uint64_t RoundInteger(uint64_t x, int bits, int lowest) {
  if (x == 0) return 0;
  const int unit = std::max(64 - __builtin_clzll(x) - bits, lowest);
  if (unit <= 0) return x;
  const uint64_t below = x >> unit, rest = x - (below << unit), half = uint64_t{1} << (unit - 1);
  return (below + (rest > half || (rest == half && below % 2 == 1) ? 1 : 0)) << unit;
}

// What is said of W, m and B.
bool IsSaidToBeSafe(int w, int m, int b) {
  return b + m < w - 3 && ((b <= m + 1 && 2 * m + 2 < w) || (b <= m && 2 * m + 2 == w));
}

struct Model {
  int w, m, b;
  int lowest;  // the accumulator's smallest quantum is 2^lowest; 0: none
};

// Every s of m + 1 bits, every p of B bits, at every distance that can matter.
bool RoundsTwiceRight(const Model& model) {
  const int reach = model.w + 3;
  for (uint64_t s = uint64_t{1} << model.m; s < uint64_t{2} << model.m; ++s) {
    for (uint64_t p = uint64_t{1} << (model.b - 1); p < uint64_t{1} << model.b; ++p) {
      for (int shift = 0; shift <= 2 * reach + model.m; ++shift) {
        const uint64_t x = s << reach, y = p << shift;
        for (const uint64_t sum : {x + y, x > y ? x - y : y - x}) {
          Comparisons::Add(1);
          const uint64_t twice =
              RoundInteger(RoundInteger(sum, model.w, 0), model.m + 1, model.lowest);
          if (twice != RoundInteger(sum, model.m + 1, model.lowest)) return false;
        }
      }
    }
  }
  return true;
}

TEST(RoundingTwice, IsRightWhereSaidForEveryNarrowFormat) {
  const int widest = IsLong() ? 12 : 10;
  for (int w = 4; w <= widest; ++w) {
    for (int m = 0; m + 1 < w; ++m) {
      for (int b = 1; b <= w; ++b) {
        if (!IsSaidToBeSafe(w, m, b)) continue;
        for (int lowest = 0; lowest <= w + 3; ++lowest) {
          EXPECT_TRUE(RoundsTwiceRight({w, m, b, lowest}))
              << "W " << w << " m " << m << " B " << b << " lowest quantum 2^" << lowest;
        }
      }
    }
  }
}

TEST(RoundingTwice, IsWrongJustBeyond) {
  // B = m + 2; 2 m + 2 = W + 1; and B = m + 1 where 2 m + 2 = W is right, but conservatively left.
  EXPECT_FALSE(RoundsTwiceRight({10, 3, 5, 0}));
  EXPECT_FALSE(RoundsTwiceRight({9, 4, 3, 0}));
  EXPECT_FALSE(RoundsTwiceRight({8, 3, 4, 0}));
}

// Every s and p, multiples of 1, of at most m + 1 and B bits, |p| below 2^reach.
bool RoundsFewTwiceRight(const Model& model, int reach) {
  for (uint64_t s_bits = 0; s_bits < uint64_t{2} << model.m; ++s_bits) {
    for (uint64_t p_bits = 1; p_bits < uint64_t{1} << model.b; ++p_bits) {
      for (int s_shift = 0; s_shift <= model.w + 3; ++s_shift) {
        for (int p_shift = 0; p_bits << p_shift < uint64_t{1} << reach; ++p_shift) {
          const uint64_t s = s_bits << s_shift, p = p_bits << p_shift;
          for (const uint64_t sum : {s + p, s > p ? s - p : p - s}) {
            Comparisons::Add(1);
            const uint64_t twice = RoundInteger(RoundInteger(sum, model.w, 0), model.m + 1, 0);
            if (twice != RoundInteger(sum, model.m + 1, 0)) return false;
          }
        }
      }
    }
  }
  return true;
}

TEST(RoundingFewTwice, IsRightWhereSaidForEveryNarrowFormat) {
  const int widest = IsLong() ? 12 : 10;
  for (int w = 4; w <= widest; ++w) {
    for (int m = 0; m < w - 1; ++m) {
      for (int b = 1; b + m < w - 1; ++b) {
        EXPECT_TRUE(RoundsFewTwiceRight({w, m, b, 0}, w)) << "W " << w << " m " << m << " B " << b;
      }
    }
  }
}

TEST(RoundingFewTwice, IsWrongJustBeyond) {
  EXPECT_FALSE(RoundsFewTwiceRight({10, 5, 3, 0}, 11));
  EXPECT_FALSE(RoundsFewTwiceRight({10, 4, 5, 0}, 10));
}

// How a sum t of M + 1 bits is rounded to m + 1, with d = M - m.
enum class Method { kScaled, kVeltkamp };

// Whether a method rounds every t.
bool RoundsRight(int lanes_mantissa_bits, int m, Method method) {
  const int drop = lanes_mantissa_bits - m, bits = lanes_mantissa_bits + 1;
  const uint64_t first = uint64_t{1} << lanes_mantissa_bits;
  for (uint64_t t = first; t < 2 * first; ++t) {
    Comparisons::Add(1);
    const uint64_t scaled = t << drop;
    const uint64_t y = method == Method::kScaled ? scaled : RoundInteger(scaled + t, bits, 0);
    const uint64_t sum = y - RoundInteger(y - t, bits, 0);
    if (sum != RoundInteger(t, m + 1, 0)) return false;
  }
  return true;
}

TEST(ScaledRounding, IsRightWhereAllowed) {
  for (int lanes = 3; lanes <= 14; ++lanes) {
    for (int m = 0; AllowsScaled(lanes, m); ++m) {
      EXPECT_TRUE(RoundsRight(lanes, m, Method::kScaled)) << "M " << lanes << " m " << m;
    }
    for (int m = 0; m < lanes; ++m) {
      EXPECT_TRUE(RoundsRight(lanes, m, Method::kVeltkamp))
          << "Veltkamp, M " << lanes << " m " << m;
    }
  }
  for (int m = 0; AllowsScaled(23, m); ++m) {
    EXPECT_TRUE(RoundsRight(23, m, Method::kScaled)) << "float32, m " << m;
  }
  for (int m = 0; m < 23; ++m) {
    EXPECT_TRUE(RoundsRight(23, m, Method::kVeltkamp)) << "Veltkamp, float32, m " << m;
  }
}

TEST(ScaledRounding, IsWrongBeyond) {
  EXPECT_FALSE(RoundsRight(11, 5, Method::kScaled));
  EXPECT_FALSE(RoundsRight(23, 11, Method::kScaled));
}

// A choice for operands of so many bits, whose values spread over 120 binades.
PathChoice ChoiceOf(int mantissa_bits, int a_bits, int b_bits) {
  AccumulatorSpec spec;
  spec.mantissa_bits = mantissa_bits;
  const PanelRange range = {0x4E800000u, 0x31000000u - 1};  // 2^30, 2^-29
  return ChoosePath(spec, {a_bits, -100}, {b_bits, -100}, range, range, 100, kAll);
}
AccumulationPath PathOf(int mantissa_bits, int a_bits, int b_bits) {
  return ChoiceOf(mantissa_bits, a_bits, b_bits).path;
}

TEST(ChoosePath, Fp8TakesFloat32UpTo11Bits) {
  for (const int bits : {3, 4}) {
    EXPECT_EQ(PathOf(11, bits, bits), AccumulationPath::kNearest) << bits;
    EXPECT_EQ(PathOf(12, bits, bits), AccumulationPath::kNearestDouble) << bits;
  }
}

TEST(ChoosePath, TakesFloat32ForFewTermsBeyond) {
  for (const int bits : {3, 4, 5}) {
    const int most = 22 - 2 * bits;
    EXPECT_TRUE(ChoiceOf(most, bits, bits).float_for_few) << bits;
    EXPECT_FALSE(ChoiceOf(most + 1, bits, bits).float_for_few) << bits;
  }
  EXPECT_TRUE(ChoiceOf(5, 4, 4).float_for_few) << "a product may be a tie";
  EXPECT_FALSE(ChoiceOf(11, 3, 3).float_for_few) << "kNearest";
}

// Where a float32 FMA is chosen, it rounds s + a b, next to a tie, as the exact sum is rounded.
TEST(ChoosePath, TakesFloat32OnlyWhereItIsRight) {
  Inputs inputs(2);
  const int rounds = IsLong() ? 100000 : 1000;
  for (int m = 0; m <= 21; ++m) {
    const FloatFormat f = {8, m, Specials::kIeee, false, true};
    for (int a_bits = 1; a_bits <= 12; ++a_bits) {
      for (int b_bits = 1; b_bits <= a_bits; ++b_bits) {
        if (PathOf(m, a_bits, b_bits) != AccumulationPath::kNearest) continue;
        for (int i = 0; i < rounds; ++i) {
          const int distance = inputs.Between(-30, 2);
          const uint32_t a = inputs.Value(distance, a_bits), b = inputs.Value(0, b_bits);
          const uint32_t p = oracle::Step(0, a, b, oracle::kFloat32, kEven, 0);
          const uint32_t tie = inputs.OneIn(3) ? TieBeside(p, m) : Tie(inputs, f, 0);
          const uint32_t s = OrNeighbour(inputs, Complement(tie, a, b, m), m);
          const uint32_t sum = oracle::Step(s, a, b, oracle::kFloat32, kEven, 0);
          Comparisons::Add(1);
          ASSERT_EQ(oracle::Round(oracle::Decode(sum), f, kEven, 0),
                    oracle::Step(s, a, b, f, kEven, 0))
              << "m " << m << std::hexfloat << ": " << FromBits<float>(s) << " + "
              << FromBits<float>(a) << " * " << FromBits<float>(b);
        }
      }
    }
  }
}

TEST(ChoosePath, LeavesWhatIsNotFiniteToTheExactPath) {
  AccumulatorSpec spec;
  spec.mantissa_bits = 5;
  const PanelRange finite = {oracle::kOne, oracle::kOne - 1};
  for (const uint32_t top : {oracle::kInf, oracle::kNan}) {
    const PanelRange range = {top, oracle::kOne - 1};
    EXPECT_EQ(ChoosePath(spec, {}, {}, range, finite, 1, kAll).path, AccumulationPath::kExact);
    EXPECT_EQ(ChoosePath(spec, {}, {}, finite, range, 1, kAll).path, AccumulationPath::kExact);
  }
}

}  // namespace
}  // namespace tf_lowprec
