// Pack and Multiply of every instruction set against the oracle, bit for bit.
#include "cc/kernels/matmul.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "cc/kernels/quantize.h"
#include "gtest/gtest.h"
#include "tests/cc/accumulate_inputs.h"
#include "tests/cc/matmul_cases.h"
#include "tests/cc/matmul_fixture.h"
#include "tests/cc/matmul_problem.h"

namespace tf_lowprec {
namespace {

testing::Environment* const kComparisons = testing::AddGlobalTestEnvironment(new Comparisons);

INSTANTIATE_TEST_SUITE_P(EveryIsa, MatMulTest, testing::ValuesIn(kIsas),
                         [](const auto& info) { return std::string(info.param.name); });

// An accumulator and a rounding, with sizes that leave tiles in part empty.
Problem AnyProblem(Inputs& inputs) {
  Problem p;
  const int64_t lanes[] = {1, 2, 7, 13, 17, 29};
  const int64_t lengths[] = {1, 2, 3, 5, 8, 17, 64, 65};
  p.m = inputs.OneOf(lanes);
  p.n = inputs.OneOf(lanes);
  p.k = inputs.OneOf(lengths);
  FloatFormat f = inputs.AnyFormat();
  if (inputs.OneIn(2)) f.subnormals = f.specials != Specials::kDlfloat;
  p.SetFormat(f);
  p.accumulator.rounding =
      static_cast<int>(inputs.OneIn(3) ? Rounding::kNearestEven : inputs.OneOf(kRoundings));
  const int64_t chunks[] = {1, 2, 3, 16, 64, p.k, p.k + 1};
  p.accumulator.chunk = inputs.OneIn(2) ? 0 : inputs.OneOf(chunks);
  p.a_lanes_last = inputs.OneIn(2);
  p.b_lanes_last = inputs.OneIn(2);
  return p;
}

TEST_P(MatMulTest, AnyOperandsAndAccumulator) {
  for (int i = 0; i < Rounds(600); ++i) {
    Problem p = AnyProblem(inputs_);
    const OperandFormat& a = inputs_.OneOf(kOperandFormats);
    const OperandFormat& b = inputs_.OneIn(2) ? a : inputs_.OneOf(kOperandFormats);
    FillRandom(inputs_, a, b, AnySpread(inputs_, p, a, b), &p);
    if (inputs_.OneIn(3)) MakeCancel(inputs_, &p);
    if (inputs_.OneIn(4)) MakeSparse(inputs_, &p);
    if (inputs_.OneIn(12)) AddSpecials(inputs_, &p);
    if (!Check(p)) return;
  }
}

TEST_P(MatMulTest, FullFloat32BitPatterns) {
  for (int i = 0; i < Rounds(100); ++i) {
    Problem p = AnyProblem(inputs_);
    p.Resize();
    for (std::vector<uint32_t>* x : {&p.a, &p.b}) {
      for (uint32_t& value : *x) {
        value = static_cast<uint32_t>(inputs_.Bits());
        if (inputs_.OneIn(2)) value &= 0xBFFFFFFFu;  // few that overflow
      }
    }
    if (!Check(p)) return;
  }
}

TEST_P(MatMulTest, EveryShape) {
  const int64_t lanes[] = {1, 2, 11, 12, 13, 16, 17, 33, 1031}, lengths[] = {0, 1, 7, 257, 601};
  for (const int64_t m : lanes) {
    for (const int64_t n : lanes) {
      for (const int64_t k : lengths) {
        if (m * n * k > 1031 * 12 * 7 || (m > 33 && n > 33)) continue;
        for (int layout = 0; layout < 4; ++layout) {
          Problem p = AnyProblem(inputs_);
          p.m = m, p.n = n, p.k = k;
          p.a_lanes_last = layout % 2 == 1;
          p.b_lanes_last = layout / 2 == 1;
          const FloatFormat accumulator = {6, 9, Specials::kIeee, false, true};
          p.SetFormat(accumulator);
          FillRandom(inputs_, kOperandFormats[0], kOperandFormats[0], {1, 4, 1, 4}, &p);
          if (m * n > 2000 && layout != static_cast<int>(k % 4)) continue;
          if (!Check(p)) return;
        }
      }
    }
  }
}

// Panels of the left operand that are converted to float64 once for many tiles, up to k = 2730, and
// longer ones, in float64 because of the accumulator or the operands.
TEST_P(MatMulTest, LongSumsInFloat64) {
  for (const int64_t k : {2730, 2731}) {
    for (const int format : {0, 7}) {  // E5M2, FP32
      for (const int64_t chunk : {0, 64}) {
        Problem p;
        p.m = 14;
        p.n = 18;
        p.k = k;
        p.SetFormat({8, 16, Specials::kIeee, false, true});
        p.accumulator.chunk = chunk;
        FillRandom(inputs_, kOperandFormats[format], kOperandFormats[format], {0, 4, 0, 4}, &p);
        if (!Check(p)) return;
      }
    }
  }
}

// Negative sums that round to -0, and sums of +0 and -0.
TEST_P(MatMulTest, SignsOfZero) {
  for (int i = 0; i < Rounds(600); ++i) {
    Problem p = AnyProblem(inputs_);
    const OperandFormat& f = kOperandFormats[inputs_.Below(2) * 7];  // E5M2, FP32
    FloatFormat accumulator = inputs_.AnyFormat(inputs_.Between(0, 21));
    accumulator.exponent_bits = std::min(accumulator.exponent_bits, 5);
    p.SetFormat(accumulator);
    p.k = std::min<int64_t>(p.k, 8);
    const int middle = oracle::LowestExponent(accumulator) - accumulator.mantissa_bits;
    const int high = std::max(middle / 2 + inputs_.Between(0, 2), -16);
    FillRandom(inputs_, f, f, {high, 3, high, 3}, &p);
    MakeCancel(inputs_, &p);
    if (inputs_.OneIn(2)) MakeSparse(inputs_, &p);
    if (!Check(p)) return;
  }
}

// ---- What must not matter. ----

// A problem of several tiles with stochastic rounding, which knows each element's index.
Problem Large(Inputs& inputs, int mantissa_bits) {
  Problem p;
  p.m = 41;
  p.n = 67;
  p.k = 37;
  p.SetFormat({6, mantissa_bits, Specials::kIeee, false, true});
  p.accumulator.rounding = static_cast<int>(Rounding::kStochastic);
  p.accumulator.chunk = 8;
  p.index = (int64_t{1} << 33) - 50;
  FillRandom(inputs, kOperandFormats[0], kOperandFormats[0], {0, 4, 0, 4}, &p);
  return p;
}

TEST_P(MatMulTest, TilesOnTheirOwnEqualAllAtOnce) {
  const Problem p = Large(inputs_, 5);
  Product whole(kernel_, p), parts(kernel_, p);
  whole.All();
  parts.Pack();
  for (int64_t tile = parts.Tiles() - 1; tile >= 0; --tile) parts.Multiply(tile, tile + 1);
  Comparisons::Add(p.m * p.n);
  EXPECT_EQ(parts.Bits(), whole.Bits());
}

// Also what ThreadSanitizer watches: threads pack different k of one panel.
TEST_P(MatMulTest, ThreadsDoNotChangeTheResult) {
  Problem p = Large(inputs_, 9);
  for (const bool lanes_last : {false, true}) {
    p.a_lanes_last = p.b_lanes_last = lanes_last;
    Product whole(kernel_, p), shared(kernel_, p);
    whole.All();
    std::vector<std::thread> threads;
    for (PackTask* task : {&shared.left(), &shared.right()}) {
      for (int64_t unit = 0; unit < MatMul::PackUnits(*task); ++unit) {
        threads.emplace_back([&, task, unit] { kernel_.pack(*task, unit, unit + 1); });
      }
    }
    for (std::thread& thread : threads) thread.join();
    threads.clear();
    const int64_t tiles = shared.Tiles(), middle = tiles / 3;
    threads.emplace_back([&] { shared.Multiply(0, middle); });
    threads.emplace_back([&] { shared.Multiply(middle, tiles); });
    for (std::thread& thread : threads) thread.join();
    Comparisons::Add(p.m * p.n);
    EXPECT_EQ(shared.Bits(), whole.Bits()) << "lanes last " << lanes_last;
  }
}

TEST_P(MatMulTest, GivenRandomBitsEqualDrawnOnes) {
  for (const int mantissa_bits : {2, 7, 8, 11, 12}) {
    Problem p = Large(inputs_, mantissa_bits);
    Product drawn(kernel_, p);
    drawn.All();
    p.random_bits = DrawnBits(p);
    Product given(kernel_, p);
    given.All();
    Comparisons::Add(p.m * p.n);
    EXPECT_EQ(given.Bits(), drawn.Bits()) << "m " << mantissa_bits;
  }
}

TEST_P(MatMulTest, GivenRandomBitsEqualTheOracle) {
  for (int i = 0; i < Rounds(40); ++i) {
    Problem p = AnyProblem(inputs_);
    p.accumulator.rounding = static_cast<int>(Rounding::kStochastic);
    const OperandFormat& f = inputs_.OneOf(kOperandFormats);
    FillRandom(inputs_, f, f, AnySpread(inputs_, p, f, f), &p);
    for (int64_t r = 0; r < p.m * p.n * (p.k + p.Chunks()); ++r) {
      p.random_bits.push_back(static_cast<int32_t>(inputs_.RandomR()));
    }
    if (!Check(p)) return;
  }
}

// ---- Packing. ----

class PackTest : public MatMulTest {};
INSTANTIATE_TEST_SUITE_P(EveryIsa, PackTest, testing::ValuesIn(kIsas),
                         [](const auto& info) { return std::string(info.param.name); });

// To E5M2, stochastically, then to E4M3.
std::vector<QuantizeTask> TwoStages() {
  QuantizeTask first, second;
  first.exponent_bits = 5;
  first.mantissa_bits = 2;
  first.rounding = static_cast<int>(Rounding::kStochastic);
  first.seed[0] = 77;
  first.stream = 9;
  second.exponent_bits = 4;
  second.mantissa_bits = 3;
  second.specials = static_cast<int>(Specials::kFn);
  second.saturate = true;
  return {first, second};
}

TEST_P(PackTest, RoundingOnTheWayEqualsQuantizingFirst) {
  const std::vector<QuantizeTask> stages = TwoStages();
  const std::pair<int64_t, int64_t> shapes[] = {{1, 1}, {13, 5}, {17, 300}, {1100, 33}, {2065, 3}};
  for (const auto& [lanes, k] : shapes) {
    for (int layout = 0; layout < 4; ++layout) {
      const bool lanes_last = layout % 2 == 1;
      const int width = layout / 2 == 1 ? kernel_.rows : kernel_.columns;
      std::vector<uint32_t> x(lanes * k), rounded(lanes * k);
      for (uint32_t& value : x) value = inputs_.Value(inputs_.Between(-12, 3), 24);
      std::vector<float> from(lanes * k), to(lanes * k);
      for (size_t i = 0; i < x.size(); ++i) from[i] = FromBits<float>(x[i]);
      for (QuantizeTask stage : stages) {
        stage.x32 = from.data();
        stage.y = to.data();
        stage.index = 1000003;
        ChooseQuantize()(stage, 0, lanes * k);
        from = to;
      }
      for (size_t i = 0; i < x.size(); ++i) rounded[i] = ToBits<float>(from[i]);

      PackedOperand got(x, lanes_last, lanes, k, lanes_last, width);
      PackedOperand want(rounded, lanes_last, lanes, k, lanes_last, width);
      got.task.stages = stages.data();
      got.task.num_stages = static_cast<int>(stages.size());
      got.task.index = 1000003;
      kernel_.pack(got.task, 0, MatMul::PackUnits(got.task));
      kernel_.pack(want.task, 0, MatMul::PackUnits(want.task));
      got.packed.pop_back(), want.packed.pop_back();  // NaN
      ASSERT_EQ(got.packed, want.packed) << lanes << "x" << k << " layout " << layout;
      for (size_t i = 0; i < got.ranges.size(); ++i) {
        ASSERT_EQ(got.ranges[i].max_bits, want.ranges[i].max_bits) << "panel " << i;
        ASSERT_EQ(got.ranges[i].min_bits_minus_1, want.ranges[i].min_bits_minus_1) << "panel " << i;
      }
    }
  }
}

TEST_P(PackTest, RangeIsOfTheValuesThatAreNot0) {
  for (const bool lanes_last : {false, true}) {
    const std::vector<uint32_t> x = {0, 0x80000003u, 0xC0000000u, 0x80000000u, 0x3F800000u, 0};
    PackedOperand operand(x, lanes_last, 2, 3, lanes_last, kernel_.columns);
    kernel_.pack(operand.task, 0, MatMul::PackUnits(operand.task));
    EXPECT_EQ(operand.ranges[0].max_bits, 0x40000000u) << lanes_last;
    EXPECT_EQ(operand.ranges[0].min_bits_minus_1, 2u) << lanes_last;
  }
}

// Of each k in a panel: the power of two above the largest value, and the last bit of any value.
TEST_P(PackTest, BoundsOfEachK) {
  for (int i = 0; i < 40; ++i) {
    const int64_t lanes = inputs_.Between(1, 40), k = inputs_.Between(1, 150);
    const bool lanes_last = inputs_.OneIn(2);
    const int width = inputs_.OneIn(2) ? kernel_.rows : kernel_.columns;
    std::vector<uint32_t> x(lanes * k);
    for (uint32_t& bits : x) {
      bits = inputs_.OneIn(3) ? oracle::kSign & static_cast<uint32_t>(inputs_.Bits())
                              : inputs_.Value(inputs_.Between(-120, 100), inputs_.Between(1, 5));
    }
    PackedOperand operand(x, /*transpose=*/false, lanes, k, lanes_last, width);
    operand.MakeBounds();
    kernel_.pack(operand.task, 0, MatMul::PackUnits(operand.task));
    for (int64_t panel = 0; panel < operand.task.Panels(); ++panel) {
      const StepBounds bounds = BoundsOfPanel(operand.task.bounds, panel, k);
      for (int64_t step = 0; step < k; ++step) {
        int exponent = -10000, quantum = 10000;  // where all are 0
        for (int64_t lane = panel * width; lane < std::min((panel + 1) * width, lanes); ++lane) {
          const double value = std::abs(double{FromBits<float>(x[lane * k + step])});
          if (value == 0) continue;
          exponent = std::max(exponent, std::ilogb(value) + 1);
          int last = std::ilogb(value);
          while (std::fmod(value, std::ldexp(1.0, last)) != 0) --last;
          quantum = std::min(quantum, last);
        }
        ASSERT_EQ(bounds.exponent[step], exponent) << "panel " << panel << ", k " << step;
        ASSERT_EQ(bounds.quantum[step], quantum) << "panel " << panel << ", k " << step;
      }
    }
  }
}

}  // namespace
}  // namespace tf_lowprec
