// ParseFormat and ParseRounding: what they accept, and that what they refuse is named.
#include "cc/numerics/format_spec.h"

#include <string>

#include "gtest/gtest.h"

namespace tf_lowprec {
namespace {

TEST(ParseFormat, ReadsFixedPoint) {
  Format f;
  ASSERT_EQ(ParseFormat("fixed<2,14>", &f), "");
  EXPECT_TRUE(f.is_fixed);
  EXPECT_EQ(f.fixed.integer_bits, 2);
  EXPECT_EQ(f.fixed.fractional_bits, 14);
}

TEST(ParseFormat, ReadsFloat) {
  Format f;
  ASSERT_EQ(ParseFormat("float<4,3,fn>", &f), "");
  EXPECT_FALSE(f.is_fixed);
  EXPECT_EQ(f.floating.exponent_bits, 4);
  EXPECT_EQ(f.floating.mantissa_bits, 3);
  EXPECT_EQ(f.floating.specials, Specials::kFn);
  EXPECT_FALSE(f.floating.saturate);
  EXPECT_TRUE(f.floating.subnormals);
}

TEST(ParseFormat, ReadsFlagsInAnyOrder) {
  for (const char* spec : {"float<5,2,ieee,saturate,flush>", "float<5,2,ieee,flush,saturate>"}) {
    Format f;
    ASSERT_EQ(ParseFormat(spec, &f), "");
    EXPECT_TRUE(f.floating.saturate);
    EXPECT_FALSE(f.floating.subnormals);
  }
}

TEST(ParseFormat, ReadsEachSpecials) {
  Format f;
  ASSERT_EQ(ParseFormat("float<5,2,ieee>", &f), "");
  EXPECT_EQ(f.floating.specials, Specials::kIeee);
  ASSERT_EQ(ParseFormat("float<5,2,finite>", &f), "");
  EXPECT_EQ(f.floating.specials, Specials::kFinite);
  ASSERT_EQ(ParseFormat("float<6,9,dlfloat>", &f), "");
  EXPECT_EQ(f.floating.specials, Specials::kDlfloat);
  EXPECT_FALSE(f.floating.subnormals);
}

TEST(ParseFormat, AcceptsTheExtremes) {
  for (const char* spec : {"fixed<1,0>", "fixed<24,0>", "fixed<1,23>", "float<2,0,ieee>",
                           "float<8,23,ieee>", "float<7,23,finite>", "float<2,1,dlfloat>"}) {
    Format f;
    EXPECT_EQ(ParseFormat(spec, &f), "") << spec;
  }
}

// Each is refused with a message that contains the spec and the word.
struct Refusal {
  const char* spec;
  const char* word;
};

class Refused : public testing::TestWithParam<Refusal> {};

TEST_P(Refused, NamesTheSpecAndTheReason) {
  Format f;
  const std::string message = ParseFormat(GetParam().spec, &f);
  EXPECT_NE(message.find("'" + std::string(GetParam().spec) + "'"), std::string::npos) << message;
  EXPECT_NE(message.find(GetParam().word), std::string::npos) << message;
}

INSTANTIATE_TEST_SUITE_P(
    ParseFormat, Refused,
    testing::Values(
        Refusal{"", "<...>"}, Refusal{"fixed", "<...>"}, Refusal{"fixed<2,14", "<...>"},
        Refusal{"<", "<...>"}, Refusal{">", "<...>"}, Refusal{"fixed<>", "few"},
        Refusal{"fixed<2>", "few"}, Refusal{"fixed<2,14>>", "integers"},
        Refusal{"fixed<2,14,1>", "integers"}, Refusal{"fixed<a,b>", "integers"},
        Refusal{"fixed<,>", "integers"}, Refusal{"fixed<2.0,14>", "integers"},
        Refusal{"posit<8,1>", "posit"}, Refusal{"float<5,2>", "specials"},
        Refusal{"float<x,2,ieee>", "integers"}, Refusal{"float<5,2,>", "specials"},
        Refusal{"float<5,2,IEEE>", "IEEE"}, Refusal{"float<5,2,ieee,x>", "flag 'x'"},
        Refusal{"float<5,2,ieee,>", "flag"}, Refusal{"float<1,2,ieee>", "exponent_bits = 1"},
        Refusal{"float<9,2,ieee>", "exponent_bits = 9"},
        Refusal{"float<5,24,ieee>", "mantissa_bits = 24"},
        Refusal{"float<5,-1,ieee>", "mantissa_bits = -1"},
        Refusal{"float<8,2,fn>", "exponent_bits = 8"},
        Refusal{"float<6,0,dlfloat>", "mantissa_bits"}, Refusal{"fixed<0,4>", "integer_bits = 0"},
        Refusal{"fixed<25,0>", "integer_bits = 25"}, Refusal{"fixed<1,24>", "fractional_bits = 24"},
        Refusal{"fixed<2,-1>", "fractional_bits = -1"}, Refusal{"fixed<2,23>", "= 25"},
        Refusal{"fixed<99999999999999999999,1>", "integer_bits"},
        Refusal{"fixed<4294967298,14>", "integer_bits"}));

TEST(ParseRounding, KnowsEveryName) {
  Rounding rounding;
  ASSERT_TRUE(ParseRounding("nearest_even", &rounding));
  EXPECT_EQ(rounding, Rounding::kNearestEven);
  ASSERT_TRUE(ParseRounding("nearest_up", &rounding));
  EXPECT_EQ(rounding, Rounding::kNearestUp);
  ASSERT_TRUE(ParseRounding("stochastic", &rounding));
  EXPECT_EQ(rounding, Rounding::kStochastic);
  ASSERT_TRUE(ParseRounding("toward_zero", &rounding));
  EXPECT_EQ(rounding, Rounding::kTowardZero);
}

TEST(ParseRounding, RefusesOtherNames) {
  Rounding rounding;
  for (const char* name : {"", "up", "NEAREST_EVEN", "nearest_even "}) {
    EXPECT_FALSE(ParseRounding(name, &rounding)) << name;
  }
}

}  // namespace
}  // namespace tf_lowprec
