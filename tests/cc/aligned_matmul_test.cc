// AlignedMatMul against 128-bit integers, on every instruction set that this CPU has.
#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <limits>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "tests/cc/aligned_problem.h"

namespace tf_lowprec {
namespace {

using namespace aligned;  // NOLINT

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
