// AccumulateStep, and the random states of accumulators, against an oracle in integers.
#include "cc/numerics/accumulate.h"

#include <cstdint>

#include "gtest/gtest.h"
#include "tests/cc/accumulate_inputs.h"
#include "tests/cc/accumulate_oracle.h"

namespace tf_lowprec {
namespace {

using oracle::kInf;
using oracle::kNan;
using oracle::kOne;
using oracle::kSign;

testing::Environment* const kComparisons = testing::AddGlobalTestEnvironment(new Comparisons);

// ---- The function, at run time. ----

template <Rounding kRounding>
uint32_t StepAs(uint32_t s, uint32_t a, uint32_t b, const FloatFormat& f, uint32_t r) {
  const FloatRounder<double> rounder = MakeFloatRounder<double>(f, kRounding);
  const float x = FromBits<float>(s), y = FromBits<float>(a), z = FromBits<float>(b);
  return ToBits<float>(!f.subnormals || f.specials == Specials::kDlfloat
                           ? AccumulateStep<kRounding, true>(x, y, z, rounder, r)
                           : AccumulateStep<kRounding, false>(x, y, z, rounder, r));
}

uint32_t Step(uint32_t s, uint32_t a, uint32_t b, const FloatFormat& f, Rounding rounding,
              uint32_t r) {
  switch (rounding) {
    case Rounding::kNearestEven:
      return StepAs<Rounding::kNearestEven>(s, a, b, f, r);
    case Rounding::kNearestUp:
      return StepAs<Rounding::kNearestUp>(s, a, b, f, r);
    case Rounding::kStochastic:
      return StepAs<Rounding::kStochastic>(s, a, b, f, r);
    default:
      return StepAs<Rounding::kTowardZero>(s, a, b, f, r);
  }
}

class AccumulateStep : public testing::Test {
 protected:
  // Every rounding of one s + a b; whether they are right.
  bool Check(uint32_t s, uint32_t a, uint32_t b, const FloatFormat& f) {
    for (const Rounding rounding : kRoundings) {
      const uint32_t r = inputs_.RandomR();
      const uint32_t got = Step(s, a, b, f, rounding, r);
      const uint32_t want = oracle::Step(s, a, b, f, rounding, r);
      Comparisons::Add(1);
      EXPECT_EQ(got, want) << f << " rounding " << static_cast<int>(rounding) << std::hex
                           << " s = 0x" << s << " a = 0x" << a << " b = 0x" << b << " r = 0x" << r
                           << std::hexfloat << ", as floats " << FromBits<float>(s) << " + "
                           << FromBits<float>(a) << " * " << FromBits<float>(b) << ": got "
                           << FromBits<float>(got) << ", want " << FromBits<float>(want);
      if (got != want) return false;
    }
    return true;
  }

  uint32_t AnyBits() { return static_cast<uint32_t>(inputs_.Bits()); }
  static int64_t Rounds() { return IsLong() ? 1000000 : 60000; }

  Inputs inputs_{7};
};

TEST_F(AccumulateStep, RandomBits) {
  for (int64_t i = 0; i < Rounds(); ++i) {
    if (!Check(AnyBits(), AnyBits(), AnyBits(), inputs_.AnyFormat())) return;
  }
}

TEST_F(AccumulateStep, RandomBitsWithinTheFormatsRange) {
  for (int64_t i = 0; i < Rounds(); ++i) {
    const FloatFormat f = inputs_.AnyFormat();
    const int low = oracle::LowestExponent(f) - f.mantissa_bits - 2;
    const int high = oracle::LeadingExponent(oracle::Largest(f)) + 1;
    const int split = inputs_.Between(-20, 20);
    const int product = inputs_.Between(low, high);
    if (!Check(inputs_.Value(inputs_.Between(low, high), f.mantissa_bits + 1),
               inputs_.Value(product - split, inputs_.Between(1, 24)),
               inputs_.Value(split, inputs_.Between(1, 24)), f)) {
      return;
    }
  }
}

// s + a b on a tie, or beside it by as little as s has bits for, at every distance of s and a b.
TEST_F(AccumulateStep, NearTies) {
  for (int64_t i = 0; i < 2 * Rounds(); ++i) {
    const FloatFormat f = inputs_.AnyFormat(inputs_.Between(0, 22));
    const int high = oracle::LeadingExponent(oracle::Largest(f));
    const int exponent = inputs_.Between(oracle::LowestExponent(f) - 2, high);
    const uint32_t tie = Tie(inputs_, f, exponent);
    const int bits = inputs_.Between(1, 24), product = exponent + inputs_.Between(-60, 30);
    const int split = inputs_.Between(-4, 4);
    const uint32_t a = inputs_.Value(product - split, bits);
    const uint32_t b = inputs_.Value(split, inputs_.Between(1, bits));
    const int kept = inputs_.OneIn(3) ? 23 : f.mantissa_bits;
    const uint32_t s = OrNeighbour(inputs_, Complement(tie, a, b, kept), kept);
    if (!Check(s, a, b, f)) return;
  }
}

// A tie, and far below it something that float32 and float64 do not see beside it.
TEST_F(AccumulateStep, BesideTiesByAlmostNothing) {
  for (int64_t i = 0; i < 2 * Rounds(); ++i) {
    const FloatFormat f = inputs_.AnyFormat(inputs_.Between(0, 22));
    const int high = oracle::LeadingExponent(oracle::Largest(f));
    const int exponent = inputs_.Between(oracle::LowestExponent(f) - 2, high);
    const uint32_t tie = Tie(inputs_, f, exponent);
    const int distance = inputs_.Between(20, 250), bits = inputs_.Between(1, 24);
    if (inputs_.OneIn(2)) {
      const int a = std::max(exponent - distance, -149);
      if (!Check(tie, inputs_.Value(a, bits), inputs_.Value(-distance / 8, bits), f)) return;
    } else if (!Check(inputs_.Value(std::max(exponent - distance, -149), bits), tie, kOne, f)) {
      return;
    }
  }
}

TEST_F(AccumulateStep, SubnormalsOfFloat32) {
  for (int64_t i = 0; i < Rounds(); ++i) {
    const FloatFormat f = inputs_.AnyFormat();
    const uint32_t s = AnyBits() & 0x81FFFFFFu;
    const int split = inputs_.Between(0, 100);
    if (!Check(s, inputs_.Value(-split, 24), inputs_.Value(split - inputs_.Between(120, 180), 24),
               f)) {
      return;
    }
  }
}

// Around the largest value, where it is the rounding that decides on overflow.
TEST_F(AccumulateStep, Overflow) {
  for (int64_t i = 0; i < Rounds(); ++i) {
    const FloatFormat f = inputs_.AnyFormat();
    const uint32_t largest = oracle::LargestBits(f, inputs_.OneIn(2));
    const int leading = oracle::LeadingExponent(oracle::Largest(f));
    const int below = inputs_.Between(-2, f.mantissa_bits + 40);
    uint32_t p = inputs_.Value(leading - below, inputs_.Between(1, 24));
    if (!inputs_.OneIn(4)) p = (p & ~kSign) | (largest & kSign);
    const uint32_t back = static_cast<uint32_t>(inputs_.Below(3)) << (23 - f.mantissa_bits);
    if (!Check(largest - back, p, kOne, f)) return;
  }
}

TEST_F(AccumulateStep, SpecialValuesAndZeros) {
  const uint32_t values[] = {0,    1,     0x00800000u, 0x7F7FFFFFu,  kOne,         0x7F800001, kInf,
                             kNan, kSign, kSign | 1,   kSign | kOne, kSign | kInf, 0xFFFFFFFFu};
  const int64_t rounds = IsLong() ? 200 : 20;
  for (int64_t i = 0; i < rounds; ++i) {
    const FloatFormat f = inputs_.AnyFormat();
    for (const uint32_t s : values) {
      for (const uint32_t a : values) {
        for (const uint32_t b : values) {
          if (!Check(s, a, b, f)) return;
        }
      }
    }
  }
}

// ---- By hand, so that the oracle is checked as well. ----

uint32_t Bits(double x) { return ToBits<float>(static_cast<float>(x)); }

uint32_t Both(double s, double a, double b, const FloatFormat& f, Rounding rounding, uint32_t r) {
  const uint32_t got = Step(Bits(s), Bits(a), Bits(b), f, rounding, r);
  EXPECT_EQ(oracle::Step(Bits(s), Bits(a), Bits(b), f, rounding, r), got);
  return got;
}

constexpr FloatFormat kM14 = {8, 14, Specials::kIeee, false, true};
constexpr FloatFormat kE4M3 = {4, 3, Specials::kIeee, false, true};

TEST(AccumulateByHand, DoubleRoundingOfTheDesign) {
  const uint32_t s = Both(32, 0x1p-9, 1, kM14, Rounding::kNearestEven, 0);
  EXPECT_EQ(s, Bits(32 + 0x1p-9));
  EXPECT_EQ(Both(FromBits<float>(s), 0x1p10, 0x1p10, kM14, Rounding::kNearestEven, 0),
            Bits(0x1p20 + 64));
}

TEST(AccumulateByHand, BelowATieByLessThanADoubleHolds) {
  EXPECT_EQ(Both(1.0625, 0x1p-60, 0x1p-60, kE4M3, Rounding::kNearestEven, 0), Bits(1.125));
  EXPECT_EQ(Both(1.0625, -0x1p-60, 0x1p-60, kE4M3, Rounding::kNearestEven, 0), Bits(1));
  EXPECT_EQ(Both(1.1875, -0x1p-60, 0x1p-60, kE4M3, Rounding::kNearestEven, 0), Bits(1.125));
}

TEST(AccumulateByHand, TiesUpLookAtTheSign) {
  EXPECT_EQ(Both(1, 0.25, 0.25, kE4M3, Rounding::kNearestUp, 0), Bits(1.125));
  EXPECT_EQ(Both(-1, -0.25, 0.25, kE4M3, Rounding::kNearestUp, 0), Bits(-1));
}

TEST(AccumulateByHand, TowardZeroCutsTheExactSum) {
  EXPECT_EQ(Both(1, -0x1p-60, 0x1p-60, kE4M3, Rounding::kTowardZero, 0), Bits(0.9375));
}

TEST(AccumulateByHand, StochasticAddsSixteenBits) {
  // 1 + 1/4 of the last place.
  EXPECT_EQ(Both(1, 0x1p-5, 1, kE4M3, Rounding::kStochastic, 0xBFFF), Bits(1));
  EXPECT_EQ(Both(1, 0x1p-5, 1, kE4M3, Rounding::kStochastic, 0xC000), Bits(1.125));
  // Just less than that: the sum stays below by less than 2^-16.
  EXPECT_EQ(Both(1.03125, -0x1p-60, 0x1p-60, kE4M3, Rounding::kStochastic, 0xC000), Bits(1));
}

TEST(AccumulateByHand, MantissaOfNoBitsTakesATieUp) {
  const FloatFormat f = {4, 0, Specials::kIeee, false, true};
  EXPECT_EQ(Both(1, 0.5, 1, f, Rounding::kNearestEven, 0), Bits(2));
  EXPECT_EQ(Both(2, 1, 1, f, Rounding::kNearestEven, 0), Bits(4));
}

TEST(AccumulateByHand, WithoutSubnormalsATieGoesToZero) {
  const FloatFormat f = {4, 3, Specials::kIeee, false, false};
  EXPECT_EQ(Both(0, -0x1p-7, 1, f, Rounding::kNearestEven, 0), kSign);
  EXPECT_EQ(Both(0x1p-100, 0x1p-7, 1, f, Rounding::kNearestEven, 0), Bits(0x1p-6));
}

TEST(AccumulateByHand, OverflowOfEachKind) {
  const FloatFormat fn = {4, 3, Specials::kFn, false, true};
  const FloatFormat finite = {4, 3, Specials::kFinite, false, true};
  EXPECT_EQ(Both(448, 16, 1, fn, Rounding::kNearestEven, 0), Bits(448));
  EXPECT_EQ(Both(448, 17, 1, fn, Rounding::kNearestEven, 0), kNan);
  EXPECT_EQ(Both(448, 448, 1, fn, Rounding::kTowardZero, 0), Bits(448));
  EXPECT_EQ(Both(480, 480, 1, finite, Rounding::kNearestEven, 0), Bits(480));
  EXPECT_EQ(Both(240, 8, 1, kE4M3, Rounding::kNearestEven, 0), kInf);
  EXPECT_EQ(Both(240, 8, 1, kE4M3, Rounding::kTowardZero, 0), Bits(240));
}

TEST(AccumulateByHand, CancellationGivesPlusZero) {
  for (const Rounding rounding : kRoundings) EXPECT_EQ(Both(-1, 1, 1, kE4M3, rounding, 0), 0u);
}

TEST(RandomState, EqualsTheOracle) {
  Inputs inputs(3);
  for (int i = 0; i < 1000; ++i) {
    const uint64_t index = inputs.Bits() >> inputs.Below(64);
    const uint64_t stream = inputs.Bits() >> inputs.Below(64);
    const PhiloxKey key = {static_cast<uint32_t>(inputs.Bits()),
                           static_cast<uint32_t>(inputs.Bits())};
    oracle::RandomSource want(index, stream, key.k0, key.k1);
    uint32_t state = FirstRandomState(index, stream, key);
    for (int step = 0; step < 5; ++step) {
      state = NextRandomState(state);
      ASSERT_EQ(state >> (32 - kAccumulatorRandomBits), want.Next()) << "step " << step;
    }
  }
}

}  // namespace
}  // namespace tf_lowprec
