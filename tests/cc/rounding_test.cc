// RoundToFloat and RoundToFixed against a slow twin in integers, written from the contract: the
// quotient of |x| and the format's quantum, both exact, is rounded to an integer.
#include "cc/numerics/rounding.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <ostream>
#include <random>

#include "gtest/gtest.h"

namespace tf_lowprec {

std::ostream& operator<<(std::ostream& out, const FloatFormat& f) {
  return out << "float<" << f.exponent_bits << "," << f.mantissa_bits << ",specials "
             << static_cast<int>(f.specials) << ",saturate " << f.saturate << ",subnormals "
             << f.subnormals << ">";
}

std::ostream& operator<<(std::ostream& out, const FixedFormat& f) {
  return out << "fixed<" << f.integer_bits << "," << f.fractional_bits << ">";
}

namespace {

using Wide = __int128;

constexpr Rounding kRoundings[] = {Rounding::kNearestEven, Rounding::kNearestUp,
                                   Rounding::kStochastic, Rounding::kTowardZero};
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInf = std::numeric_limits<float>::infinity();

// ---------------------------------------------------------------------------------- The twin.

// floor(n / d) for d > 0.
Wide FloorDivide(Wide n, Wide d) { return n / d - (n % d < 0 ? 1 : 0); }

// n / d rounded to an integer, d > 0. `up`: whether of a tie the larger goes towards +inf.
Wide SlowQuotient(Wide n, Wide d, Rounding rounding, bool up, uint32_t r) {
  const Wide below = FloorDivide(n, d);
  const Wide rest = n - below * d;
  switch (rounding) {
    case Rounding::kStochastic:  // floor(n / d + r / 2^24)
      return FloorDivide(n * (Wide{1} << 24) + r * d, d << 24);
    case Rounding::kTowardZero:
      return n >= 0 || rest == 0 ? below : below + 1;
    default:
      break;
  }
  if (2 * rest != d) return below + (2 * rest > d ? 1 : 0);
  if (rounding == Rounding::kNearestEven) return below + (below & 1);
  return below + (up ? 1 : 0);
}

// |x| = significand * 2^exponent with 2^52 <= significand < 2^53, for finite x other than 0.
struct Parts {
  int64_t significand;
  int exponent;
};

Parts Split(double x) {
  int exponent;
  const double fraction = std::frexp(std::fabs(x), &exponent);
  return {static_cast<int64_t>(std::ldexp(fraction, 53)), exponent - 53};
}

// Beyond this shift |x| is less than 2^-24 of the quantum: it counts as positive, no more.
constexpr int kMaxShift = 78;

int SlowBias(const FloatFormat& f) { return (1 << (f.exponent_bits - 1)) - 1; }

int SlowMinExponent(const FloatFormat& f) {
  return (f.specials == Specials::kDlfloat ? 0 : 1) - SlowBias(f);
}

double SlowMax(const FloatFormat& f) {
  int top = (1 << f.exponent_bits) - 1;
  int mantissa = (1 << f.mantissa_bits) - 1;
  if (f.specials == Specials::kIeee) {
    --top;
  } else if (f.specials != Specials::kFinite && --mantissa < 0) {
    --top;
    mantissa = 0;
  }
  return std::ldexp(1.0 + std::ldexp(mantissa, -f.mantissa_bits), top - SlowBias(f));
}

double SlowSmallest(const FloatFormat& f) {
  const double normal = std::ldexp(1.0, SlowMinExponent(f));
  if (f.specials == Specials::kDlfloat) return normal * (1 + std::ldexp(1.0, -f.mantissa_bits));
  return f.subnormals ? std::ldexp(normal, -f.mantissa_bits) : normal;
}

float SlowFloat(double x, const FloatFormat& f, Rounding rounding, uint32_t r) {
  if (x != x) return kNan;
  const double beyond =
      f.saturate || f.specials == Specials::kFinite
          ? SlowMax(f)
          : (f.specials == Specials::kIeee ? static_cast<double>(kInf) : double{kNan});
  double magnitude = 0;
  if (std::isinf(x)) {
    magnitude = beyond;
  } else if (x != 0) {
    const Parts parts = Split(x);
    Parts quantum = {1, std::max(parts.exponent + 52, SlowMinExponent(f)) - f.mantissa_bits};
    if (std::fabs(x) < SlowSmallest(f)) {
      quantum = Split(SlowSmallest(f));
      while (quantum.significand % 2 == 0)
        quantum = {quantum.significand / 2, quantum.exponent + 1};
    }
    const int shift = quantum.exponent - parts.exponent;  // > 0: float32 has 24 bits, Split 53
    if (shift < kMaxShift) {
      const Wide divisor = Wide{quantum.significand} << shift;
      const Wide whole = SlowQuotient(parts.significand, divisor, rounding, x > 0, r);
      magnitude = std::ldexp(static_cast<double>(whole * quantum.significand), quantum.exponent);
    }
    if (magnitude > SlowMax(f)) {
      magnitude = rounding == Rounding::kTowardZero ? SlowMax(f) : beyond;
    }
  }
  return static_cast<float>(std::copysign(magnitude, x));
}

float SlowFixed(double x, const FixedFormat& f, Rounding rounding, uint32_t r) {
  if (x != x) return kNan;
  const int64_t half_range = int64_t{1} << (f.integer_bits + f.fractional_bits - 1);
  Wide whole = 0;
  if (std::isinf(x)) {
    whole = x > 0 ? half_range : -half_range;
  } else if (x != 0) {
    Parts parts = Split(x);
    int shift = -parts.exponent - f.fractional_bits;
    if (shift <= 0) {
      whole = half_range * 2;  // at least 2^52 quanta
    } else {
      if (shift > kMaxShift) parts.significand = 1, shift = kMaxShift;
      const Wide signed_significand = x < 0 ? -parts.significand : parts.significand;
      whole = SlowQuotient(signed_significand, Wide{1} << shift, rounding, true, r);
    }
    if (shift <= 0 && x < 0) whole = -whole;
  }
  whole = std::min<Wide>(std::max<Wide>(whole, -half_range), half_range - 1);
  return static_cast<float>(
      std::ldexp(static_cast<double>(static_cast<int64_t>(whole)), -f.fractional_bits));
}

// ------------------------------------------------------------- The functions, at run time.

template <Rounding kRounding, typename T>
float FastFloat(T x, const FloatFormat& f, uint32_t r) {
  const FloatRounder<T> rounder = MakeFloatRounder<T>(f, kRounding);
  return f.subnormals ? RoundToFloat<kRounding, false>(x, rounder, r)
                      : RoundToFloat<kRounding, true>(x, rounder, r);
}

template <typename T>
float Fast(T x, const FloatFormat& f, Rounding rounding, uint32_t r) {
  switch (rounding) {
    case Rounding::kNearestEven:
      return FastFloat<Rounding::kNearestEven>(x, f, r);
    case Rounding::kNearestUp:
      return FastFloat<Rounding::kNearestUp>(x, f, r);
    case Rounding::kStochastic:
      return FastFloat<Rounding::kStochastic>(x, f, r);
    default:
      return FastFloat<Rounding::kTowardZero>(x, f, r);
  }
}

template <typename T>
float Fast(T x, const FixedFormat& f, Rounding rounding, uint32_t r) {
  const FixedRounder<T> rounder = MakeFixedRounder<T>(f);
  switch (rounding) {
    case Rounding::kNearestEven:
      return RoundToFixed<Rounding::kNearestEven>(x, rounder, r);
    case Rounding::kNearestUp:
      return RoundToFixed<Rounding::kNearestUp>(x, rounder, r);
    case Rounding::kStochastic:
      return RoundToFixed<Rounding::kStochastic>(x, rounder, r);
    default:
      return RoundToFixed<Rounding::kTowardZero>(x, rounder, r);
  }
}

float Slow(double x, const FloatFormat& f, Rounding rounding, uint32_t r) {
  return SlowFloat(x, f, rounding, r);
}
float Slow(double x, const FixedFormat& f, Rounding rounding, uint32_t r) {
  return SlowFixed(x, f, rounding, r);
}

uint32_t CanonicalBits(float x) { return x != x ? kCanonicalNan : ToBits<float>(x); }

// ------------------------------------------------------------------------------------ Inputs.

class Inputs {
 public:
  uint64_t Below(uint64_t n) { return engine_() % n; }

  // A value of type T: random bits, or one with few mantissa bits and an exponent in [low, high],
  // so that it is on the grid or on a tie; then perhaps a neighbour of it.
  template <typename T>
  T Value(int low, int high, int mantissa_bits) {
    using UInt = typename Carrier<T>::UInt;
    if (Below(8) == 0) return FromBits<T>(static_cast<UInt>(engine_()));
    const int kept = static_cast<int>(Below(mantissa_bits + 4));
    const double significand =
        1 + std::ldexp(static_cast<double>(Below(uint64_t{1} << kept)), -kept);
    const int exponent = low + static_cast<int>(Below(high - low + 1));
    UInt bits = ToBits<T>(static_cast<T>(std::ldexp(significand, exponent)));
    const uint64_t step = Below(4);
    if (step == 1 && bits > 0) bits -= 1;
    if (step == 2 && bits < Carrier<T>::kInf) bits += 1;
    return FromBits<T>(bits | (Below(2) << (sizeof(T) * 8 - 1)));
  }

  uint32_t RandomBits() {
    const uint32_t corners[] = {0, 1, (1u << 23) - 1, 1u << 23, (1u << 24) - 1};
    if (Below(2) == 0) return corners[Below(5)];
    // A multiple of a power of two, or one less: with few mantissa bits the sum just carries.
    const uint32_t r = static_cast<uint32_t>(Below(1 << 24)) & (~0u << Below(24));
    return (r - static_cast<uint32_t>(Below(2))) & 0xFFFFFFu;
  }

  FloatFormat AnyFloat() {
    FloatFormat f;
    f.exponent_bits = 2 + static_cast<int>(Below(7));
    f.mantissa_bits = static_cast<int>(Below(24));
    const bool ieee = f.exponent_bits == 8;
    f.specials = ieee ? Specials::kIeee : static_cast<Specials>(Below(f.mantissa_bits > 0 ? 4 : 3));
    f.saturate = Below(2) == 0;
    f.subnormals = f.specials != Specials::kDlfloat && Below(3) != 0;
    return f;
  }

  FixedFormat AnyFixed() {
    const int word = 1 + static_cast<int>(Below(24));
    const int integer_bits = 1 + static_cast<int>(Below(word));
    return {integer_bits, word - integer_bits};
  }

 private:
  std::mt19937_64 engine_{20240229};
};

template <typename T, typename FormatType>
void ExpectEqualToTwin(T x, const FormatType& f, uint32_t r) {
  for (const Rounding rounding : kRoundings) {
    const float got = Fast<T>(x, f, rounding, r);
    const float want = Slow(static_cast<double>(x), f, rounding, r);
    ASSERT_EQ(ToBits<float>(got), CanonicalBits(want))
        << f << " rounding " << static_cast<int>(rounding) << " x = " << std::hexfloat << x
        << " r = " << r << ": got " << got << ", want " << want;
  }
}

template <typename T>
class RoundingTest : public testing::Test {};
using Carriers = testing::Types<float, double>;
TYPED_TEST_SUITE(RoundingTest, Carriers);

TYPED_TEST(RoundingTest, AnyFloatFormatEqualsTheTwin) {
  Inputs inputs;
  for (int i = 0; i < 6000; ++i) {
    const FloatFormat f = inputs.AnyFloat();
    const int low = SlowMinExponent(f) - f.mantissa_bits - 4;
    const int high = std::ilogb(SlowMax(f)) + 1;
    for (int j = 0; j < 50; ++j) {
      const TypeParam x = inputs.Value<TypeParam>(low, high, f.mantissa_bits);
      ExpectEqualToTwin(x, f, inputs.RandomBits());
      if (this->HasFatalFailure()) return;
    }
  }
}

TYPED_TEST(RoundingTest, AnyFixedPointFormatEqualsTheTwin) {
  Inputs inputs;
  for (int i = 0; i < 6000; ++i) {
    const FixedFormat f = inputs.AnyFixed();
    const int word = f.integer_bits + f.fractional_bits;
    for (int j = 0; j < 50; ++j) {
      const TypeParam x = inputs.Value<TypeParam>(-f.fractional_bits - 4, f.integer_bits + 1, word);
      ExpectEqualToTwin(x, f, inputs.RandomBits());
      if (this->HasFatalFailure()) return;
    }
  }
}

TYPED_TEST(RoundingTest, SpecialInputsEqualTheTwin) {
  using Limits = std::numeric_limits<TypeParam>;
  Inputs inputs;
  for (int i = 0; i < 2000; ++i) {
    for (const TypeParam magnitude : {TypeParam{0}, Limits::denorm_min(), Limits::min(),
                                      Limits::max(), Limits::infinity(), Limits::quiet_NaN()}) {
      for (const TypeParam x : {magnitude, -magnitude}) {
        const uint32_t r = inputs.RandomBits();
        ExpectEqualToTwin(x, inputs.AnyFloat(), r);
        ExpectEqualToTwin(x, inputs.AnyFixed(), r);
        if (this->HasFatalFailure()) return;
      }
    }
  }
}

// ------------------------------------------- A few by hand, so that the twin is checked as well.

constexpr FloatFormat kE5M2 = {5, 2, Specials::kIeee, false, true};
constexpr FloatFormat kE4M3Fn = {4, 3, Specials::kFn, false, true};
constexpr FloatFormat kDlfloat = {6, 9, Specials::kDlfloat, false, false};
constexpr FixedFormat kQ16 = {2, 14};

// The scale of infinity means nothing where m = 0: it must not reach an integer (UBSan looks).
TEST(RoundToFloat, InfinityIsDefinedWithoutMantissa) {
  const FloatFormat format = {6, 0, Specials::kIeee, false, true};
  const auto f = MakeFloatRounder<float>(format, Rounding::kStochastic);
  const float inf = FromBits<float>(Carrier<float>::kInf);
  EXPECT_EQ((RoundToFloat<Rounding::kStochastic, false, false>(inf, f, 1u)), inf);
  EXPECT_EQ((RoundToFloat<Rounding::kStochastic, false, false>(-inf, f, 1u)), -inf);
}

TEST(RoundToFloat, TieGoesToTheEvenSignificand) {
  EXPECT_EQ(Fast(1.125f, kE5M2, Rounding::kNearestEven, 0), 1.0f);
  EXPECT_EQ(Fast(1.375f, kE5M2, Rounding::kNearestEven, 0), 1.5f);
}

TEST(RoundToFloat, TieWithoutMantissaGoesToTheLargerMagnitude) {
  const FloatFormat f = {4, 0, Specials::kIeee, false, true};
  EXPECT_EQ(Fast(1.5f, f, Rounding::kNearestEven, 0), 2.0f);
  EXPECT_EQ(Fast(-3.0f, f, Rounding::kNearestEven, 0), -4.0f);
}

TEST(RoundToFloat, NearestUpSendsTiesTowardsPlusInfinity) {
  EXPECT_EQ(Fast(1.125f, kE5M2, Rounding::kNearestUp, 0), 1.25f);
  EXPECT_EQ(Fast(-1.125f, kE5M2, Rounding::kNearestUp, 0), -1.0f);
}

TEST(RoundToFloat, FloatsKeepTheSignOfZero) {
  EXPECT_TRUE(std::signbit(Fast(-1e-30f, kE5M2, Rounding::kNearestEven, 0)));
}

TEST(RoundToFloat, OverflowFollowsTheSpecials) {
  EXPECT_EQ(Fast(61440.0f, kE5M2, Rounding::kNearestEven, 0), kInf);
  EXPECT_EQ(Fast(61439.0f, kE5M2, Rounding::kNearestEven, 0), 57344.0f);
  EXPECT_EQ(Fast(-1e9f, kE5M2, Rounding::kTowardZero, 0), -57344.0f);
  EXPECT_EQ(Fast(464.0f, kE4M3Fn, Rounding::kNearestEven, 0), 448.0f);
  EXPECT_TRUE(std::isnan(Fast(465.0f, kE4M3Fn, Rounding::kNearestEven, 0)));
}

TEST(RoundToFloat, DlfloatsGapIsRoundedToItsEnds) {
  const float smallest = std::ldexp(1 + std::ldexp(1.0f, -9), -31);
  EXPECT_EQ(Fast(smallest / 2, kDlfloat, Rounding::kNearestEven, 0), 0.0f);
  EXPECT_EQ(Fast(std::nextafter(smallest / 2, 1.0f), kDlfloat, Rounding::kNearestEven, 0),
            smallest);
  EXPECT_EQ(Fast(smallest / 2, kDlfloat, Rounding::kStochastic, (1u << 23) - 1), 0.0f);
  EXPECT_EQ(Fast(smallest / 2, kDlfloat, Rounding::kStochastic, 1u << 23), smallest);
}

TEST(RoundToFloat, DoubleIsRoundedOnce) {
  const FloatFormat fp16 = {5, 10, Specials::kIeee, false, true};
  const double above_tie = 1 + std::ldexp(1.0, -11) + std::ldexp(1.0, -40);
  EXPECT_EQ(Fast(above_tie, fp16, Rounding::kNearestEven, 0), 1 + std::ldexp(1.0f, -10));
}

TEST(RoundToFixed, StochasticRoundingActsOnTwosComplement) {
  const float unit = std::ldexp(1.0f, -14);
  EXPECT_EQ(Fast(-unit / 4, kQ16, Rounding::kStochastic, (1u << 22) - 1), -unit);
  EXPECT_EQ(Fast(-unit / 4, kQ16, Rounding::kStochastic, 1u << 22), 0.0f);
}

TEST(RoundToFixed, ZeroHasNoSign) {
  EXPECT_EQ(ToBits<float>(Fast(-1e-9f, kQ16, Rounding::kNearestEven, 0)), 0u);
}

TEST(RoundToFixed, Saturates) {
  EXPECT_EQ(Fast(5.0f, kQ16, Rounding::kNearestEven, 0), 2 - std::ldexp(1.0f, -14));
  EXPECT_EQ(Fast(-kInf, kQ16, Rounding::kTowardZero, 0), -2.0f);
}

}  // namespace
}  // namespace tf_lowprec
