// Encode and Decode: every code of the small formats, and what they refuse.
#include "cc/numerics/bits.h"

#include <cmath>
#include <cstdint>
#include <limits>
#include <random>
#include <utility>

#include "gtest/gtest.h"

namespace tf_lowprec {
namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInf = std::numeric_limits<float>::infinity();

Format Float(int exponent_bits, int mantissa_bits, Specials specials, bool subnormals = true) {
  Format f{};
  f.floating = {exponent_bits, mantissa_bits, specials, false,
                subnormals && specials != Specials::kDlfloat};
  return f;
}

Format Fixed(int integer_bits, int fractional_bits) {
  Format f{};
  f.is_fixed = true;
  f.fixed = {integer_bits, fractional_bits};
  return f;
}

CodeStatus EncodeStatus(float x, const Format& f) {
  int32_t code = 0;
  return Encode(x, f, &code);
}

CodeStatus DecodeStatus(int32_t code, const Format& f) {
  float x = 0;
  return Decode(code, f, &x);
}

TEST(Bits, EveryFloatCodeSurvivesTheRoundTrip) {
  for (int e = 2; e <= 7; ++e) {
    for (int m = 0; m <= 4; ++m) {
      for (const Specials specials :
           {Specials::kIeee, Specials::kFn, Specials::kFinite, Specials::kDlfloat}) {
        if (specials == Specials::kDlfloat && m == 0) continue;
        for (const bool subnormals : {true, false}) {
          const Format f = Float(e, m, specials, subnormals);
          for (int32_t code = 0; code < 1 << CodeBits(f); ++code) {
            float x = 0;
            if (Decode(code, f, &x) != CodeStatus::kOk) continue;
            int32_t back = -1;
            const CodeStatus status = Encode(x, f, &back);
            ASSERT_EQ(status, CodeStatus::kOk) << e << "," << m << " code " << code;
            ASSERT_EQ(back, x != x ? static_cast<int32_t>(NanCode(f.floating)) : code)
                << e << "," << m << " specials " << static_cast<int>(specials);
          }
        }
      }
    }
  }
}

TEST(Bits, EveryFloatCodeHasTheDefinitionsValue) {
  for (const Specials specials : {Specials::kIeee, Specials::kFn, Specials::kFinite}) {
    const Format f = Float(4, 3, specials);
    for (int32_t code = 0; code <= static_cast<int32_t>(FloatMaxCode(f.floating)); ++code) {
      const int field = code >> 3, mantissa = code & 7;
      const double want =
          field == 0 ? std::ldexp(mantissa, 1 - 7 - 3) : std::ldexp(8 + mantissa, field - 7 - 3);
      float x = 0;
      ASSERT_EQ(Decode(code, f, &x), CodeStatus::kOk);
      ASSERT_EQ(x, want) << "code " << code;
      ASSERT_EQ(Decode(code | 0x80, f, &x), CodeStatus::kOk);
      ASSERT_EQ(ToBits<float>(x), ToBits<float>(static_cast<float>(-want))) << "code " << code;
    }
  }
}

TEST(Bits, DlfloatsLowestBinadeIsNormalButForZero) {
  const Format f = Float(6, 9, Specials::kDlfloat);
  float x = 0;
  ASSERT_EQ(Decode(0, f, &x), CodeStatus::kOk);
  EXPECT_EQ(x, 0.0f);
  ASSERT_EQ(Decode(1, f, &x), CodeStatus::kOk);
  EXPECT_EQ(x, std::ldexp(513.0f, -31 - 9));
  ASSERT_EQ(Decode(0x7FFE, f, &x), CodeStatus::kOk);
  EXPECT_EQ(x, std::ldexp(1022.0f, 32 - 9));
  ASSERT_EQ(Decode(0x7FFF, f, &x), CodeStatus::kOk);
  EXPECT_EQ(ToBits<float>(x), kCanonicalNan);
}

TEST(Bits, FloatFromCodeHoldsEveryValueOfFloat32) {
  // FP32's codes are float32's own bits, so any value can be checked.
  const Format f = Float(8, 23, Specials::kIeee);
  std::mt19937 random(1);
  for (int i = 0; i < 200000; ++i) {
    const uint32_t code = (i % 2 ? random() : random() >> 9 >> random() % 23) & 0x7FFFFFFFu;
    if (code > FloatMaxCode(f.floating)) continue;
    ASSERT_EQ(ToBits<float>(FloatFromCode(f.floating, code)), code);
    int32_t back = 0;
    ASSERT_EQ(Encode(FromBits<float>(code), f, &back), CodeStatus::kOk);
    ASSERT_EQ(back, static_cast<int32_t>(code));
  }
}

TEST(Bits, EveryFixedPointCodeSurvivesTheRoundTrip) {
  for (const auto& [il, fl] : {std::pair{1, 0}, {2, 14}, {16, 0}, {1, 15}, {5, 3}}) {
    const Format f = Fixed(il, fl);
    const int32_t half = 1 << (il + fl - 1);
    for (int32_t code = -half; code < half; ++code) {
      float x = 0;
      ASSERT_EQ(Decode(code, f, &x), CodeStatus::kOk);
      ASSERT_EQ(x, std::ldexp(static_cast<float>(code), -fl));
      ASSERT_FALSE(x == 0 && std::signbit(x));
      int32_t back = half;
      ASSERT_EQ(Encode(x, f, &back), CodeStatus::kOk);
      ASSERT_EQ(back, code);
    }
  }
}

TEST(Bits, LongestFixedPointWordsHoldTheirEnds) {
  for (const Format& f : {Fixed(24, 0), Fixed(1, 23), Fixed(12, 12)}) {
    for (const int32_t code : {-(1 << 23), (1 << 23) - 1}) {
      float x = 0;
      int32_t back = 0;
      ASSERT_EQ(Decode(code, f, &x), CodeStatus::kOk);
      ASSERT_EQ(Encode(x, f, &back), CodeStatus::kOk);
      EXPECT_EQ(back, code);
    }
  }
}

TEST(Bits, EncodeRefusesWhatHasNoCode) {
  const Format e5m2 = Float(5, 2, Specials::kIeee);
  const Format e4m3fn = Float(4, 3, Specials::kFn);
  const Format e2m1 = Float(2, 1, Specials::kFinite);
  const Format q16 = Fixed(2, 14);
  EXPECT_EQ(EncodeStatus(1.1f, e5m2), CodeStatus::kOffGrid);
  EXPECT_EQ(EncodeStatus(std::ldexp(1.0f, -15), Float(5, 2, Specials::kIeee, false)),
            CodeStatus::kOffGrid);
  EXPECT_EQ(EncodeStatus(kInf, e4m3fn), CodeStatus::kNoInf);
  EXPECT_EQ(EncodeStatus(kNan, e2m1), CodeStatus::kNoNan);
  EXPECT_EQ(EncodeStatus(kNan, Float(3, 0, Specials::kIeee)), CodeStatus::kNoNan);
  EXPECT_EQ(EncodeStatus(kNan, q16), CodeStatus::kNoNan);
  EXPECT_EQ(EncodeStatus(kInf, q16), CodeStatus::kOutOfRange);
  EXPECT_EQ(EncodeStatus(2.0f, q16), CodeStatus::kOutOfRange);
  EXPECT_EQ(EncodeStatus(std::ldexp(1.0f, -15), q16), CodeStatus::kOffGrid);
  EXPECT_EQ(EncodeStatus(std::numeric_limits<float>::denorm_min(), q16), CodeStatus::kOffGrid);
}

TEST(Bits, EncodeGivesNanOneCodeWhateverItsSign) {
  int32_t code = 0;
  ASSERT_EQ(Encode(-kNan, Float(5, 2, Specials::kIeee), &code), CodeStatus::kOk);
  EXPECT_EQ(code, 0x7E);
  ASSERT_EQ(Encode(-kNan, Float(4, 3, Specials::kFn), &code), CodeStatus::kOk);
  EXPECT_EQ(code, 0x7F);
}

TEST(Bits, DecodeTakesTheSignBitExtendedOrNot) {
  const Format e5m2 = Float(5, 2, Specials::kIeee);
  for (const int32_t code : {0xBC, 0xBC - 0x100}) {
    float x = 0;
    ASSERT_EQ(Decode(code, e5m2, &x), CodeStatus::kOk);
    EXPECT_EQ(x, -1.0f);
  }
}

TEST(Bits, DecodeRefusesIntegersThatAreNoCodes) {
  const Format e2m1 = Float(2, 1, Specials::kFinite);
  EXPECT_EQ(DecodeStatus(16, e2m1), CodeStatus::kOutOfRange);
  EXPECT_EQ(DecodeStatus(-9, e2m1), CodeStatus::kOutOfRange);
  EXPECT_EQ(DecodeStatus(8, Fixed(2, 2)), CodeStatus::kOutOfRange);
  EXPECT_EQ(DecodeStatus(-9, Fixed(2, 2)), CodeStatus::kOutOfRange);
  EXPECT_EQ(DecodeStatus(1, Float(5, 2, Specials::kIeee, false)), CodeStatus::kOffGrid);
}

}  // namespace
}  // namespace tf_lowprec
