// Convolutions cut into blocks and shared out to threads give the bits of one block on one thread.
#include <atomic>
#include <thread>

#include "tests/cc/conv2d_problem.h"

namespace tf_lowprec {
namespace {

testing::Environment* const kComparisons = testing::AddGlobalTestEnvironment(new Comparisons);

// Pieces of unlike sizes, on three threads.
void ThreeThreads(int64_t total, int64_t, const std::function<void(int64_t, int64_t)>& work) {
  std::vector<std::thread> threads;
  const int64_t cuts[] = {0, total / 5, total / 2 + total % 2, total};
  for (int i = 0; i < 3; ++i) {
    threads.emplace_back([&work, begin = cuts[i], end = cuts[i + 1]] {
      const ScopedDenormals denormals;
      if (begin < end) work(begin, end);
    });
  }
  for (std::thread& thread : threads) thread.join();
}

class Conv2DBlocks : public testing::TestWithParam<int64_t> {};

TEST_P(Conv2DBlocks, GiveTheBitsOfOne) {
  const int64_t bytes = GetParam();
  const ConvBudget little = {bytes, bytes, bytes};
  Inputs inputs(static_cast<uint64_t>(bytes));
  for (int i = 0; i < (IsLong() ? 2000 : 60); ++i) {
    for (const ConvPass pass : kPasses) {
      ConvProblem p = AnyProblem(inputs, pass);
      p.product.shape.batch = inputs.Between(1, 4);
      // Often a plain float32 multiply-add will do, so that operands are not packed.
      if (inputs.OneIn(2)) p.accumulator.exponent_bits = 8;
      FillOperands(inputs, 0, /*specials=*/inputs.OneIn(5), &p);
      ExpectSameBits(OnCpu(p, little, ThreeThreads, 3), OnCpu(p), p);
      if (HasFailure()) return;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Bytes, Conv2DBlocks, testing::Values(1, 2000, 20000, 200000));

// Wide enough that panels gather from padded images, at every boundary of chunks and runs.
TEST(Conv2D, GathersInPlaceTheBitsOfPackedOperands) {
  Inputs inputs(7);
  for (int i = 0; i < (IsLong() ? 400 : 20); ++i) {
    for (const ConvPass pass : kPasses) {
      ConvProblem p = AnyProblem(inputs, pass);
      WindowAxis height = AnyAxis(inputs), width = AnyAxis(inputs);
      height.in += 4;
      width.in += 10;
      const int64_t groups = inputs.Between(1, 2);
      p.product.shape = ShapeOf(height, width, inputs.Between(1, 3), groups, inputs.Between(8, 20),
                                inputs.Between(8, 20));
      p.accumulator.exponent_bits = 8;
      p.accumulator.mantissa_bits = inputs.Between(2, 16);
      if (!inputs.OneIn(3)) p.spec.bits = 8;  // which they have; or they pass for float32
      FillOperands(inputs, 0, /*specials=*/false, &p);
      // Without room for a padded image, panels are packed.
      const ConvBudget packed = {1, 1 << 20, 1 << 20};
      ExpectSameBits(OnCpu(p), OnCpu(p, packed), p);
      ExpectSameBits(OnCpu(p, ConvBudget(), ThreeThreads, 3), OnCpu(p, packed), p);
      if (HasFailure()) return;
    }
  }
}

std::atomic<int> pads{0};

// Many images, of which threads take a few at a time: they pad them themselves.
TEST(Conv2D, ThreadsTakeImagesOfTheirOwn) {
  Inputs inputs(12);
  int padded = 0;
  Conv2D counting = ChooseConv2D();
  counting.pad = [](const ConvBlock& block, const ConvPlan& plan, int64_t first_image,
                    int64_t begin, int64_t end, float* out, PanelRange* range) {
    ++pads;
    ChooseConv2D().pad(block, plan, first_image, begin, end, out, range);
  };
  for (int i = 0; i < (IsLong() ? 400 : 20); ++i) {
    for (const ConvPass pass : {ConvPass::kForward, ConvPass::kBackward}) {
      ConvProblem p = AnyProblem(inputs, pass);
      WindowAxis height = AnyAxis(inputs), width = AnyAxis(inputs);
      height.in += 4;
      width.in += 10;
      const int batch = inputs.Between(24, 40);
      p.product.shape = ShapeOf(height, width, batch, inputs.Between(1, 2), inputs.Between(8, 20),
                                inputs.Between(8, 20));
      p.accumulator.exponent_bits = 8;
      p.accumulator.mantissa_bits = inputs.Between(2, 16);
      FillOperands(inputs, 0, /*specials=*/inputs.OneIn(5), &p);
      const std::vector<float> want = OnCpu(p, {1, 1 << 20, 1 << 20});
      ConvBudget budget;
      if (inputs.OneIn(2)) budget.cache = 100000;
      pads = 0;
      ExpectSameBits(OnCpu(p, budget, OneThread, 1, counting), want, p);
      EXPECT_TRUE(pads == 0 || pads > 1) << p;  // 0: where padding would take too much
      padded += pads > 1;
      ExpectSameBits(OnCpu(p, budget, ThreeThreads, 3, counting), want, p);
      if (HasFailure()) return;
    }
  }
  EXPECT_GT(padded, 10);
}

// An image, or a gradient, of many panels of rows.
ConvProblem WithRows(Inputs& inputs, ConvPass pass) {
  ConvProblem p;
  p.product.pass = pass;
  WindowAxis axis = {};
  axis.filter = 3;
  axis.stride = axis.dilation = 1;
  axis.in = inputs.Between(14, 16);
  axis.same = true;
  p.product.shape = ShapeOf(axis, axis, 3, 1, inputs.Between(12, 20), inputs.Between(8, 20));
  p.accumulator.exponent_bits = 8;
  p.accumulator.mantissa_bits = inputs.Between(7, 10);
  const int64_t chunks[] = {0, 1, 5, 64};
  p.accumulator.chunk = inputs.OneOf(chunks);
  return p;
}

// Images of one pixel, or of one row: all pixels have the same taps under them, but not every tap.
// Random numbers are drawn for the others, too.
TEST(Conv2D, StridesOverOnePixel) {
  Inputs inputs(13);
  for (const int width_in : {1, 10}) {
    for (const Rounding rounding : kRoundings) {
      ConvProblem p;
      p.product.pass = ConvPass::kBackward;
      WindowAxis height = {}, width = {};
      height.filter = width.filter = 3;
      height.stride = 2;
      width.stride = width_in == 1 ? 2 : 1;
      height.dilation = width.dilation = 1;
      height.in = 1;
      width.in = width_in;
      height.same = width.same = true;
      p.product.shape = ShapeOf(height, width, 24, 1, 8, 8);
      p.accumulator.exponent_bits = 8;
      p.accumulator.mantissa_bits = 5;
      p.accumulator.rounding = static_cast<int>(rounding);
      FillOperands(inputs, 0, /*specials=*/false, &p);
      ExpectSameBits(OnCpu(p), OnCpu(p, {1, 1 << 20, 1 << 20}), p);
    }
  }
}

// Images of other magnitudes, in blocks that go on where others ended, some in another arithmetic.
TEST(Conv2D, SumsOfAnyMagnitude) {
  Inputs inputs(9);
  for (int i = 0; i < (IsLong() ? 400 : 40); ++i) {
    for (const ConvPass pass : kPasses) {
      ConvProblem p = WithRows(inputs, pass);
      p.product.shape.batch = inputs.Between(3, 5);
      if (inputs.OneIn(2)) p.accumulator.mantissa_bits = inputs.Between(2, 16);
      if (inputs.OneIn(3)) p.accumulator.exponent_bits = 6;
      p.spec = {inputs.OneIn(3) ? 24 : 4, -140};
      FillOperands(inputs, inputs.Between(-30, 10), /*specials=*/false, &p);
      const float factors[] = {1, 0x1p20f, 0x1p-30f, 0x1p50f, 0};
      const float factor = inputs.OneOf(factors), first = inputs.OneOf(factors);
      for (size_t j = 0; j < p.a.size(); ++j) {
        if (j < p.a.size() / 3) p.a[j] *= first;
        if (j >= 2 * p.a.size() / 3) p.a[j] *= factor;
      }
      // Without room for a padded image, panels are packed.
      const std::vector<float> want = OnCpu(p, {1, 1 << 20, 1 << 20});
      ExpectSameBits(OnCpu(p), want, p);
      // Room for one padded image, or for less.
      const int64_t bytes[] = {20000, 40000};
      const ConvBudget little = {inputs.OneOf(bytes), inputs.OneIn(2) ? 20000 : 1 << 20, 200000};
      ExpectSameBits(OnCpu(p, little), want, p);
      ExpectSameBits(OnCpu(p, little, ThreeThreads, 3), want, p);
      if (HasFailure()) return;
    }
  }
}

// Values of which sums may overflow or underflow, infinities and NaN, in an image with its padding
// around it.
TEST(Conv2D, SumsAtTheEndsOfAFormat) {
  Inputs inputs(10);
  for (int i = 0; i < (IsLong() ? 200 : 12); ++i) {
    for (const ConvPass pass : kPasses) {
      for (const int exponent : {-8, 0, 8}) {
        ConvProblem p = WithRows(inputs, pass);
        p.accumulator.exponent_bits = 5;
        p.spec = {4, -20};
        const bool specials = inputs.OneIn(3);
        FillOperands(inputs, exponent, specials, &p);
        const std::vector<float> want = OnCpu(p, {1, 1 << 20, 1 << 20});
        ExpectSameBits(OnCpu(p), want, p);
        const ConvBudget little = {20000, 20000, 200000};
        ExpectSameBits(OnCpu(p, little, ThreeThreads, 3), want, p);
        if (HasFailure()) return;
      }
    }
  }
}

// Operands at both ends of float32's range.
TEST(Conv2D, OperandsAtTheEndsOfFloat32) {
  Inputs inputs(11);
  for (int i = 0; i < (IsLong() ? 100 : 6); ++i) {
    for (const ConvPass pass : kPasses) {
      for (const int exponent : {-57, 44}) {
        ConvProblem p = WithRows(inputs, pass);
        p.spec = {4, exponent - 5};
        FillOperands(inputs, exponent, /*specials=*/false, &p);
        ExpectSameBits(OnCpu(p), OnCpu(p, {1, 1 << 20, 1 << 20}), p);
        if (HasFailure()) return;
      }
    }
  }
}

// Sums in float64 of more terms than a piece of a panel has, which is converted once for many
// tiles.
TEST(Conv2D, PiecesOfLongSumsInFloat64) {
  Inputs inputs(8);
  const ConvBudget packed = {1, 1 << 20, 1 << 20};
  for (const ConvPass pass : kPasses) {
    for (const int64_t chunk : {0, 64}) {
      ConvProblem p;
      p.product.pass = pass;
      WindowAxis axis = {};
      axis.filter = 3;
      axis.stride = axis.dilation = 1;
      axis.in = 12;
      axis.same = true;
      p.product.shape = ShapeOf(axis, axis, 3, 1, 33, 35);
      p.accumulator.mantissa_bits = 16;
      p.accumulator.chunk = chunk;
      FillOperands(inputs, 0, /*specials=*/false, &p);
      ASSERT_GT(p.product.Length(), 256);
      ExpectSameBits(OnCpu(p), OnCpu(p, packed), p);
    }
  }
}

}  // namespace
}  // namespace tf_lowprec
