// The arithmetic of each path of accumulation_path.h, on operands at the edge of where it is right.
#include <algorithm>
#include <cstdint>
#include <string>

#include "cc/kernels/accumulation_path.h"
#include "cc/kernels/random_history.h"
#include "gtest/gtest.h"
#include "tests/cc/accumulate_inputs.h"
#include "tests/cc/matmul_cases.h"
#include "tests/cc/matmul_fixture.h"

namespace tf_lowprec {
namespace {

testing::Environment* const kComparisons = testing::AddGlobalTestEnvironment(new Comparisons);

INSTANTIATE_TEST_SUITE_P(EveryIsa, MatMulTest, testing::ValuesIn(kIsas),
                         [](const auto& info) { return std::string(info.param.name); });

// ---- What the paths of accumulation_path.h rest on. ----

// Float formats with mantissas of `m` bits, in whose range there is room.
FloatFormat WideFormat(Inputs& inputs, int m) {
  FloatFormat f = {inputs.Between(5, 8), m, Specials::kIeee, false, true};
  if (f.exponent_bits < 8 && inputs.OneIn(4)) f.specials = Specials::kFn;
  return f;
}

TEST_P(MatMulTest, TiesOfOneStep) {
  for (int i = 0; i < Rounds(900); ++i) {
    Problem p;
    p.m = kernel_.rows;
    p.n = kernel_.columns;
    const int m = inputs_.OneIn(2) ? inputs_.Between(8, 12) : inputs_.Between(0, 22);
    p.SetFormat(WideFormat(inputs_, m));
    p.accumulator.rounding =
        static_cast<int>(inputs_.OneIn(3) ? inputs_.OneOf(kRoundings) : Rounding::kNearestEven);
    // The product's bits: around m, around 21 - m, or any.
    const int bits[] = {m, m + 1, m + 2, 20 - m, 21 - m, 22 - m, inputs_.Between(2, 48)};
    const int product_bits = std::max(2, inputs_.OneOf(bits));
    const int a_bits = std::min(24, std::max(1, product_bits / 2 + inputs_.Between(-1, 1)));
    const int b_bits = std::min(24, std::max(1, product_bits - a_bits));
    FillTies(inputs_, a_bits, b_bits, /*chunked=*/false, inputs_.OneIn(2) ? 60 : 24, &p);
    if (!Check(p)) return;
  }
}

TEST_P(MatMulTest, TiesOfTheAdditionOfChunks) {
  for (int i = 0; i < Rounds(500); ++i) {
    Problem p;
    p.m = kernel_.rows;
    p.n = 3;
    const int m = inputs_.OneIn(2) ? inputs_.Between(8, 12) : inputs_.Between(0, 22);
    p.SetFormat(WideFormat(inputs_, m));
    p.accumulator.rounding =
        static_cast<int>(inputs_.OneIn(3) ? inputs_.OneOf(kRoundings) : Rounding::kNearestEven);
    FillTies(inputs_, inputs_.Between(1, 12), inputs_.Between(1, 3), /*chunked=*/true, 30, &p);
    if (!Check(p)) return;
  }
}

// Operands that 24 or 53 bits just hold all sums of, or just do not.
TEST_P(MatMulTest, SumsOfAsManyBitsAsAFloatHas) {
  for (int i = 0; i < Rounds(400); ++i) {
    Problem p;
    p.m = kernel_.rows;
    p.n = inputs_.Between(1, 5);
    const bool large = inputs_.OneIn(2);  // all terms are, so that sums are as large as can be
    p.k = large ? int64_t{1} << inputs_.Between(1, 4) : inputs_.Between(2, 64);
    p.SetFormat({8, inputs_.Between(large ? 16 : 0, 21), Specials::kIeee, false, true});
    const int target = (inputs_.OneIn(3) ? 53 : 24) + inputs_.Between(-1, 2);
    const int a_bits = inputs_.Between(large ? 9 : 1, 12),
              b_bits = inputs_.Between(large ? 9 : 1, 12);
    const int growth = 32 - __builtin_clz(static_cast<unsigned>(p.k - 1));
    const int widths = std::max(target - 1 - growth - a_bits - b_bits, 0);
    const int a_width = inputs_.Between(0, widths), b_width = widths - a_width;
    const OperandFormat a = {"a", a_bits, -60, 60, false, -59 - a_bits};
    const OperandFormat b = {"b", b_bits, -60, 60, false, -59 - b_bits};
    FillRandom(inputs_, a, b, {0, a_width, 0, b_width}, &p);
    if (large) {
      for (uint32_t& x : p.a) x = (x & ~oracle::kSign) | 0x600000u;
      for (uint32_t& x : p.b) x = (x & ~oracle::kSign) | 0x600000u;
    }
    if (!Check(p)) return;
  }
}

// Terms 32, then 2^-9, then 2^20: float32 rounds to a tie that the exact sum is not on. So it does
// where they are as close as they can be. They may follow each other, or lie in different parts of
// a panel, between zeros.
TEST_P(MatMulTest, DoubleRoundingOfTheDesign) {
  const struct {
    float a[3], b[3], sum;
  } cases[] = {{{32.0f, 0x1p-4f, 0x1p10f}, {1.0f, 0x1p-5f, 0x1p10f}, 0x1p20f + 64},
               {{0x1p-7f, 0x1p-11f, 1.5f}, {0x1p-7f, 0x1p-12f, 1.5f}, 2.25f + 0x1p-13f}};
  for (const auto& c : cases) {
    for (const int step : {1, 16}) {
      Problem p;
      p.k = 2 * step + 1;
      p.SetFormat({8, 14, Specials::kIeee, false, true});
      p.a_spec = p.b_spec = kOperandFormats[0].Spec();
      p.Resize();
      for (int i = 0; i < 3; ++i) {
        p.a[i * step] = ToBits<float>(c.a[i]);
        p.b[i * step] = ToBits<float>(c.b[i]);
      }
      Product product(kernel_, p);
      product.All();
      EXPECT_EQ(product.At(0, 0), ToBits<float>(c.sum)) << step << " apart";
    }
  }
}

// Chunks of 1 + 2^-11 and 2^-12 - 2^-24, in either order: their sum in float32 is the tie that the
// exact one is just below.
TEST_P(MatMulTest, DoubleRoundingOfChunks) {
  Problem p;
  p.m = 4;
  p.n = 8;
  p.k = 4;
  p.SetFormat({8, 11, Specials::kIeee, false, true});
  p.accumulator.chunk = 2;
  p.a_spec = p.b_spec = {3, -30};
  for (const float sign : {1.0f, -1.0f}) {
    for (const float x : {1.0f, 0x1p-11f, 0x1p-12f, -0x1p-24f, 0x1p-12f, -0x1p-24f, 1.0f, 0x1p-11f})
      p.a.push_back(ToBits<float>(sign * x));
  }
  p.b.assign(p.k * p.n, ToBits<float>(1.0f));
  Product product(kernel_, p);
  product.All();
  for (int row = 0; row < p.m; ++row) {
    const float expected = row < 2 ? 1 + 0x1p-11f : -1 - 0x1p-11f;
    for (int column = 0; column < p.n; ++column) {
      EXPECT_EQ(product.At(row, column), ToBits<float>(expected)) << row << ", " << column;
    }
  }
}

// A NaN stays one to the end: of a sum, of all columns' sums, and of the total of chunks.
TEST_P(MatMulTest, NansStay) {
  for (int i = 0; i < Rounds(200); ++i) {
    Problem p;
    p.m = 3;
    p.n = inputs_.Between(1, 10);
    p.k = inputs_.Between(1, 120);
    p.SetFormat(inputs_.AnyFormat());
    p.accumulator.rounding = static_cast<int>(inputs_.OneOf(kRoundings));
    p.accumulator.chunk = inputs_.OneIn(3) ? 0 : inputs_.OneIn(2) ? 64 : inputs_.Between(1, 40);
    FillRandom(inputs_, kOperandFormats[0], kOperandFormats[0], {0, 3, 0, 3}, &p);
    const uint32_t nan = 0x7FC00000u, infinity = 0x7F800000u;
    // One row, and columns: all, or all but the first.
    p.a[p.k + inputs_.Below(p.k)] = inputs_.OneIn(2) ? nan : infinity;
    for (int64_t column = inputs_.Between(0, 1); column < p.n; ++column) {
      p.b[inputs_.Below(p.k) * p.n + column] = nan;
    }
    if (!Check(p)) return;
  }
}

// Sums of equal terms grow as fast as sums can: those that just fit, and those that overflow.
TEST_P(MatMulTest, LargestSums) {
  for (int i = 0; i < Rounds(6000); ++i) {
    Problem p;
    p.m = 2;
    p.n = 8;
    p.k = inputs_.Between(1, inputs_.OneIn(8) ? 80 : 6);
    p.SetFormat(inputs_.AnyFormat(inputs_.OneIn(2) ? 0 : inputs_.Between(1, 23)));
    p.accumulator.rounding = static_cast<int>(inputs_.OneOf(kRoundings));
    p.accumulator.chunk = inputs_.OneIn(3) ? 0 : inputs_.OneIn(2) ? 1 : inputs_.Between(2, 3);
    p.Resize();
    const int bits = inputs_.Between(1, 8);
    p.a_spec = p.b_spec = {bits, -125 - bits};
    const int top = oracle::LeadingExponent(oracle::Largest(p.Format()));
    const int product = top - inputs_.Between(0, 5), b_exponent = product - product / 2;
    const uint32_t ones = (1u << bits) - 1;  // the largest significand
    const uint32_t a = oracle::Assemble(false, ones, product / 2 - bits + 1);
    const uint32_t b = inputs_.OneIn(3) ? inputs_.Value(b_exponent, bits)
                                        : oracle::Assemble(false, ones, b_exponent - bits + 1);
    for (uint32_t& x : p.a) x = a;
    for (uint32_t& x : p.b) x = inputs_.OneIn(50) ? inputs_.Value(b_exponent, bits) : b;
    if (!Check(p)) return;
  }
}

// With m = 0 a tie goes up: 8 and 4 make 16, more than sums of more bits get from 4 + 4 + 4.
TEST_P(MatMulTest, SumsWithoutMantissaOverflowByTies) {
  Problem p;
  p.k = 3;
  p.SetFormat({3, 0, Specials::kIeee, false, true});
  p.accumulator.chunk = 1;
  p.a_spec = p.b_spec = {3, -128};
  p.a = {0x3FE00000u, 0x3FE00000u, 0x3FE00000u};  // 1.75
  p.b = p.a;
  Check(p);
}

// Operands anywhere in the range of float32, in tiles that two threads share.
TEST_P(MatMulTest, SumsOfAnyMagnitude) {
  for (int m = 0; m <= 11; ++m) {
    for (const int64_t chunk : {0, 1, 7, 8, 64}) {
      for (int i = 0; i < Rounds(3); ++i) {
        Problem p;
        p.m = 3 * kernel_.rows - 1;
        p.n = kernel_.columns + 1;
        p.k = inputs_.OneIn(3) ? 70 : inputs_.Between(1, 20);
        p.SetFormat({8, m, Specials::kIeee, inputs_.OneIn(4), true});
        p.accumulator.chunk = chunk;
        const OperandFormat f = {"f", inputs_.Between(1, 4), -100, 100, false, -103};
        const int width = inputs_.OneIn(2) ? inputs_.Between(0, 12) : inputs_.Between(60, 160);
        const int high = inputs_.Between(width - 105, 92);
        const int a_width = inputs_.Between(0, width), b_width = width - a_width;
        const int a_high = high / 2 + inputs_.Between(-15, 15), b_high = high - a_high;
        FillRandom(inputs_, f, f, {a_high, a_width, b_high, b_width}, &p);
        if (inputs_.OneIn(3)) MakeCancel(inputs_, &p);
        if (inputs_.OneIn(4)) std::fill_n(p.a.begin(), p.k, 0x80000000u);  // a row of -0
        if (!Check(p)) return;
        Product product(kernel_, p);
        product.Pack();
        const int64_t tiles = product.Tiles(), first = inputs_.Between(0, static_cast<int>(tiles));
        product.Multiply(0, first);
        product.Multiply(first, tiles);
        Product whole(kernel_, p);
        whole.All();
        ASSERT_EQ(product.Bits(), whole.Bits()) << p << ", " << first << " tiles first";
      }
    }
  }
}

// Sums below float32's normal numbers: multiples of the format's smallest one, which is another
// subnormal number.
TEST_P(MatMulTest, SumsBelowTheNormalsOfFloat32) {
  int nearest = 0;
  for (int m = 0; m <= 10; ++m) {
    for (const int64_t chunk : {0, 1, 7}) {
      Problem p;
      p.m = kernel_.rows;
      p.n = kernel_.columns;
      p.k = inputs_.Between(1, 20);
      p.SetFormat({8, m, Specials::kIeee, false, true});
      p.accumulator.chunk = chunk;
      const int width = inputs_.Between(0, 4), low = -126 - m;
      const OperandFormat a = {"a", inputs_.Between(1, 4), -100, 0, false, -60};
      const OperandFormat b = {"b", inputs_.Between(1, 4), -100, 0, false, low + 60};
      FillRandom(inputs_, a, b,
                 {-60 + a.bits - 1 + width, width, low + 60 + b.bits - 1 + width, width}, &p);
      if (inputs_.OneIn(2)) MakeCancel(inputs_, &p);
      if (!Check(p)) return;
      Product product(kernel_, p);
      product.Pack();
      for (const PathChoice& choice : product.Paths(GetParam().support)) {
        nearest += choice.path == AccumulationPath::kNearest && !choice.may_underflow;
      }
    }
  }
  EXPECT_GT(nearest, 20) << "of 33";
}

// Sums next to powers of two, from which a rounding takes them to another binade.
TEST_P(MatMulTest, SumsNextToPowersOfTwo) {
  for (int m = 1; m <= 10; ++m) {
    const int bits = m < 5 ? 1 : 3;  // of products few enough for float32
    for (int i = 0; i < Rounds(8); ++i) {
      Problem p;
      p.m = 3 * kernel_.rows;
      p.n = kernel_.columns;
      p.k = 2;
      p.SetFormat({8, m, Specials::kIeee, false, true});
      p.a_spec = p.b_spec = {bits, -40};
      p.Resize();
      for (int64_t row = 0; row < p.m; ++row) {
        p.a[2 * row] = ToBits<float>(inputs_.OneIn(2) ? 1.0f : -1.0f);
        p.a[2 * row + 1] = inputs_.Value(-inputs_.Between(m, 26), inputs_.OneIn(2) ? 1 : bits);
      }
      for (int64_t column = 0; column < p.n; ++column) {
        p.b[column] = ToBits<float>(1.0f);
        p.b[p.n + column] = inputs_.Value(inputs_.Between(-1, 1), bits);
      }
      if (!Check(p)) return;
      Product product(kernel_, p);
      product.Pack();
      for (const PathChoice& choice : product.Paths(GetParam().support)) {
        ASSERT_EQ(choice.path, AccumulationPath::kNearest) << p;
      }
    }
  }
}

// Few random bits are cut with the sum's last ones: what is cut of both may still carry.
TEST_P(MatMulTest, StochasticCarriesFromBelowFloat32) {
  for (int i = 0; i < Rounds(16); ++i) {
    Problem p;
    p.m = p.n = 16;
    p.k = 200;
    p.SetFormat({8, 8 + i % 4, Specials::kIeee, false, true});
    p.accumulator.rounding = static_cast<int>(Rounding::kStochastic);
    p.accumulator.chunk = 50;
    p.index = i * p.m * p.n;
    FillRandom(inputs_, kOperandFormats[7], kOperandFormats[7], {0, 3, 0, 3}, &p);  // FP32
    if (!Check(p)) return;
  }
}

// So long that random bits come from a RandomHistory, and that it forgets some.
TEST_P(MatMulTest, LongStochasticSums) {
  const int64_t lengths[] = {2 * kLongestLag - 1, 2 * kLongestLag, 2 * kLongestLag + 1, 1101, 2700};
  for (const int m : {3, 7, 8, 11}) {
    for (const int64_t chunk : {0, 1, 64, 700}) {
      Problem p;
      p.m = 13;
      p.n = 9;
      p.k = inputs_.OneOf(lengths);
      p.SetFormat({8, m, Specials::kIeee, false, true});
      p.accumulator.rounding = static_cast<int>(Rounding::kStochastic);
      p.accumulator.chunk = chunk;
      p.index = inputs_.Between(0, 1000);
      const OperandFormat& f = kOperandFormats[inputs_.OneIn(2) ? 0 : 7];  // E5M2, FP32
      FillRandom(inputs_, f, f, {0, 6, 0, 6}, &p);
      if (!Check(p)) return;
    }
  }
}

// So long that they might overflow, if all random bits were ones: most do not, and some do.
TEST_P(MatMulTest, GrowingStochasticSums) {
  for (const int m : {0, 1, 3, 5, 7}) {
    for (const int64_t chunk : {0, 1, 16}) {
      for (const int room : {1, 4, 9, 20}) {
        Problem p;
        p.m = 13;
        p.n = 9;
        p.k = inputs_.OneIn(2) ? 300 : 700;
        p.SetFormat({6, m, Specials::kIeee, inputs_.OneIn(4), true});
        p.accumulator.rounding = static_cast<int>(Rounding::kStochastic);
        p.accumulator.chunk = chunk;
        // Of products, below the largest number.
        const int a_high = 15, b_high = 16 - room;
        const OperandFormat f = {"f", 3, -20, 20, false, -20};
        FillRandom(inputs_, f, f, {a_high, 4, b_high, 4}, &p);
        reached_.clear();
        if (!Check(p)) return;
        if (m > 3 && room == 20) {
          EXPECT_EQ(reached_.count({AccumulationPath::kStochastic, false}), 1u) << p;
        }
      }
    }
  }
}

// Sums of multiples of 2^lowest: the lowest is no number of DLFloat.
TEST_P(MatMulTest, LowestBinadeOfFormatsWithAGap) {
  for (int i = 0; i < Rounds(200); ++i) {
    Problem p;
    p.m = 3;
    p.n = 3;
    p.k = inputs_.Between(1, 6);
    FloatFormat f = {6, inputs_.Between(1, 12), Specials::kDlfloat, false, false};
    if (inputs_.OneIn(3)) f.specials = Specials::kIeee;
    p.SetFormat(f);
    p.accumulator.rounding = static_cast<int>(inputs_.OneOf(kRoundings));
    const int low = oracle::LowestExponent(f) + inputs_.Between(-1, 1), half = low / 2;
    const OperandFormat a = {"a", 2, half, 20, false, half};
    const OperandFormat b = {"b", 2, low - half, 20, false, low - half};
    FillRandom(inputs_, a, b, {half + 1, 1, low - half, 0}, &p);
    if (inputs_.OneIn(2)) MakeCancel(inputs_, &p);
    if (!Check(p)) return;
  }
}

// Each path, on an instruction set that has it, computes something.
TEST_P(MatMulTest, EveryPathIsReached) {
  struct Case {
    int mantissa_bits, operand;  // of kOperandFormats
    Rounding rounding;
    int high, width;
    AccumulationPath path;
  };
  using Path = AccumulationPath;
  constexpr Rounding kEven = Rounding::kNearestEven;
  const bool fma = GetParam().support.fma;
  const Case cases[] = {
      {9, 0, kEven, 0, 15, Path::kNearest},
      {14, 0, kEven, 0, 15, Path::kNearestDouble},
      {10, 7, kEven, 0, 8, Path::kNearestOdd},
      {23, 7, kEven, 0, 8, fma ? Path::kFma : Path::kExact},
      {9, 7, Rounding::kTowardZero, 0, 8, fma ? Path::kTruncate : Path::kExact},
      {9, 0, Rounding::kTowardZero, 0, 8, Path::kTruncate},
      {9, 0, Rounding::kStochastic, 0, 4, Path::kStochastic},
      {5, 0, Rounding::kStochastic, 0, 4, Path::kStochastic},
      {12, 0, Rounding::kStochastic, 0, 4, Path::kExact},
      {9, 0, Rounding::kNearestUp, 0, 4, Path::kExact},
  };
  for (const Case& c : cases) {
    for (const int exponent_bits : {5, 8}) {
      Problem p;
      p.m = 13;
      p.n = 17;
      p.k = 40;
      p.SetFormat({exponent_bits, c.mantissa_bits, Specials::kIeee, false, true});
      p.accumulator.rounding = static_cast<int>(c.rounding);
      p.accumulator.chunk = 16;
      const OperandFormat& f = kOperandFormats[c.operand];
      FillRandom(inputs_, f, f, {c.high, c.width, c.high, c.width}, &p);
      reached_.clear();
      if (!Check(p)) return;
      if (exponent_bits == 8) {
        EXPECT_EQ(reached_.count({c.path, false}), 1u) << PathName(c.path) << " for " << p;
      }
    }
  }
}

TEST_P(MatMulTest, EveryPathIsReachedWithUnderflow) {
  struct Case {
    int mantissa_bits, operand;  // of kOperandFormats
    Rounding rounding;
    AccumulationPath path;
  };
  const Case cases[] = {
      {9, 0, Rounding::kNearestEven, AccumulationPath::kNearest},
      {15, 0, Rounding::kNearestEven, AccumulationPath::kNearestDouble},
      {4, 7, Rounding::kNearestEven, AccumulationPath::kNearestOdd},
      {9, 0, Rounding::kTowardZero, AccumulationPath::kTruncate},
  };
  for (const Case& c : cases) {
    Problem p;
    p.m = 13;
    p.n = 17;
    p.k = 40;
    p.SetFormat({4, c.mantissa_bits, Specials::kIeee, false, true});
    p.accumulator.rounding = static_cast<int>(c.rounding);
    const OperandFormat& f = kOperandFormats[c.operand];
    FillRandom(inputs_, f, f, {-2, 11, -3, 10}, &p);
    reached_.clear();
    if (!Check(p)) return;
    EXPECT_EQ(reached_.count({c.path, true}), 1u) << PathName(c.path) << " for " << p;
  }
}

}  // namespace
}  // namespace tf_lowprec
