// The body of the CUDA kernel of Conv2D and its gradients, compiled for the host against
// gpu_shim.h, gives the bits of the CPU's kernels.
#include "cc/kernels/conv2d_gpu.h"

#include <cmath>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <ostream>
#include <vector>

#include "cc/kernels/float_mode.h"
#include "cc/numerics/window.h"
#include "gtest/gtest.h"
#include "tests/cc/accumulate_inputs.h"

namespace tf_lowprec {
namespace {

testing::Environment* const kComparisons = testing::AddGlobalTestEnvironment(new Comparisons);

constexpr ConvPass kPasses[] = {ConvPass::kForward, ConvPass::kBackward, ConvPass::kGradient};

struct ConvProblem {
  ConvProduct product;
  AccumulatorSpec accumulator;
  std::vector<float> a, b;  // the image and the right operand, as GpuConv2DTask has them
  uint32_t seed[2] = {0xDEADBEEFu, 5};
  uint64_t stream = (uint64_t{2} << 32) + 3;

  int64_t Size() const { return product.Rows() * product.ResultStep(); }
  int64_t Steps() const {
    const int64_t chunk = accumulator.chunk, k = product.Length();
    return k + (chunk > 0 ? (k + chunk - 1) / chunk : 0);
  }
};

std::ostream& operator<<(std::ostream& out, const ConvProblem& p) {
  const ConvShape& s = p.product.shape;
  return out << "pass " << static_cast<int>(p.product.pass) << ", x " << s.batch << "x"
             << s.in_height << "x" << s.in_width << "x" << s.in_channels << ", y " << s.out_height
             << "x" << s.out_width << "x" << s.out_channels << ", filters " << s.filter_height
             << "x" << s.filter_width << ", strides " << s.stride_height << " " << s.stride_width
             << ", dilations " << s.dilation_height << " " << s.dilation_width << ", padding "
             << s.pad_top << " " << s.pad_left << ", groups " << s.groups << ", "
             << AccumulatorFormat(p.accumulator) << ", rounding " << p.accumulator.rounding
             << ", chunk " << p.accumulator.chunk;
}

// Values of few bits about 2^exponent, with zeros of both signs: what is left out shows.
std::vector<float> Values(Inputs& inputs, int64_t size, int exponent, bool specials) {
  const uint32_t strange[] = {oracle::kInf, oracle::kNan, kLeftOut, oracle::kSign | oracle::kInf};
  std::vector<float> x(size);
  for (float& value : x) {
    uint32_t bits = inputs.Value(exponent + inputs.Between(-2, 1), 4);
    if (inputs.OneIn(8)) bits &= oracle::kSign;
    if (specials && inputs.OneIn(64)) bits = inputs.OneOf(strange);
    value = FromBits<float>(bits);
  }
  return x;
}

// One axis with a small window; SAME, VALID or explicit padding.
WindowAxis AnyAxis(Inputs& inputs) {
  WindowAxis axis = {};
  axis.filter = inputs.Between(1, 4);
  axis.stride = inputs.Between(1, 3);
  axis.dilation = inputs.Between(1, 2);
  axis.in = axis.Extent() + inputs.Between(0, 6);
  axis.same = inputs.OneIn(2);
  if (!axis.same && inputs.OneIn(2)) {
    axis.before = inputs.Between(0, 3);
    axis.after = inputs.Between(0, 3);
  }
  return axis;
}

ConvShape ShapeOf(const WindowAxis& height, const WindowAxis& width, int64_t batch, int64_t groups,
                  int64_t group_in, int64_t group_out) {
  ConvShape s;
  s.batch = batch;
  s.groups = groups;
  s.in_channels = groups * group_in;
  s.out_channels = groups * group_out;
  s.in_height = height.in;
  s.in_width = width.in;
  s.filter_height = height.filter;
  s.filter_width = width.filter;
  s.stride_height = height.stride;
  s.stride_width = width.stride;
  s.dilation_height = height.dilation;
  s.dilation_width = width.dilation;
  s.pad_top = height.Before();
  s.pad_left = width.Before();
  s.out_height = height.Outputs();
  s.out_width = width.Outputs();
  return s;
}

void FillOperands(Inputs& inputs, int exponent, bool specials, ConvProblem* p) {
  const ConvShape& s = p->product.shape;
  const int64_t x = s.InPixels() * s.in_channels, dy = s.OutPixels() * s.out_channels;
  const int64_t filters = s.Taps() * s.GroupIn() * s.out_channels;
  const ConvPass pass = p->product.pass;
  p->a = Values(inputs, pass == ConvPass::kBackward ? dy : x, exponent, specials);
  p->b = Values(inputs, pass == ConvPass::kGradient ? dy : filters, exponent, specials);
}

struct Free {
  void operator()(void* memory) const { free(memory); }
};

std::vector<float> OnCpu(const ConvProblem& p) {
  const ScopedDenormals denormals;
  const Conv2D cpu = ChooseConv2D();
  std::vector<float> c(p.Size());
  ConvTask task;
  task.product = p.product;
  task.image = p.a.data();
  task.b = p.b.data();
  task.c = c.data();
  task.accumulator = p.accumulator;
  memcpy(task.seed, p.seed, sizeof(task.seed));
  task.stream = p.stream;
  const ConvPlan plan = PlanConv2D(cpu, task, 1);
  std::vector<float> source(plan.source_size), packed(plan.packed_size);
  const std::unique_ptr<void, Free> tiles(
      aligned_alloc(64, static_cast<size_t>(plan.tile_bytes) + 64));
  EXPECT_TRUE(RunConv2D(cpu, plan, task, {source.data(), packed.data(), tiles.get()},
                        [](int64_t total, int64_t, const auto& work) { work(0, total); }));
  return c;
}

std::vector<float> OnGpu(const ConvProblem& p, const int32_t* random_bits = nullptr) {
  const ScopedDenormals denormals;
  std::vector<float> c(p.Size(), 12345.0f);
  GpuConv2DTask task;
  task.product = p.product;
  task.a = p.a.data();
  task.b = p.b.data();
  task.c = c.data();
  task.accumulator = p.accumulator;
  memcpy(task.seed, p.seed, sizeof(task.seed));
  task.stream = p.stream;
  task.random_bits = random_bits;
  LaunchConv2DTiles(task, nullptr);
  return c;
}

void ExpectSameBits(const std::vector<float>& got, const std::vector<float>& want,
                    const ConvProblem& p) {
  ASSERT_EQ(got.size(), want.size());
  for (size_t i = 0; i < got.size(); ++i) {
    ASSERT_EQ(ToBits<float>(got[i]), ToBits<float>(want[i]))
        << p << ", element " << i << ": " << got[i] << " and " << want[i];
  }
  Comparisons::Add(static_cast<int64_t>(got.size()));
}

ConvProblem AnyProblem(Inputs& inputs, ConvPass pass) {
  ConvProblem p;
  p.product.pass = pass;
  const int64_t groups = inputs.OneIn(2) ? 1 : inputs.Between(2, 4);
  const bool depthwise = inputs.OneIn(4);
  p.product.shape =
      ShapeOf(AnyAxis(inputs), AnyAxis(inputs), inputs.Between(1, 2), groups,
              depthwise ? 1 : inputs.Between(1, 5), depthwise ? 1 : inputs.Between(1, 18));
  p.accumulator.exponent_bits = inputs.Between(4, 6);
  p.accumulator.mantissa_bits = inputs.Between(0, 23);
  p.accumulator.rounding = static_cast<int>(inputs.OneOf(kRoundings));
  p.accumulator.subnormals = !inputs.OneIn(4);
  const int64_t chunks[] = {0, 0, 1, 5, 16, 64};
  p.accumulator.chunk = inputs.OneOf(chunks);
  return p;
}

TEST(Conv2DGpu, HasTheBitsOfTheCpu) {
  Inputs inputs(1);
  for (int i = 0; i < (IsLong() ? 3000 : 80); ++i) {
    for (const ConvPass pass : kPasses) {
      ConvProblem p = AnyProblem(inputs, pass);
      FillOperands(inputs, /*exponent=*/0, /*specials=*/inputs.OneIn(3), &p);
      ExpectSameBits(OnGpu(p), OnCpu(p), p);
      if (HasFailure()) return;
    }
  }
}

// Products about the smallest quantum: adding a zero to -0 would show.
TEST(Conv2DGpu, LeavesTermsOutWhereSumsVanish) {
  Inputs inputs(2);
  for (int i = 0; i < (IsLong() ? 1000 : 40); ++i) {
    for (const ConvPass pass : kPasses) {
      ConvProblem p = AnyProblem(inputs, pass);
      p.accumulator.exponent_bits = 4;
      FillOperands(inputs, -(6 + p.accumulator.mantissa_bits) / 2, false, &p);
      ExpectSameBits(OnGpu(p), OnCpu(p), p);
      if (HasFailure()) return;
    }
  }
}

// Infinite filters under padding, of which nothing may be seen.
TEST(Conv2DGpu, InfinitiesDoNotMeetPadding) {
  const WindowAxis axis = {3, 3, 1, 1, /*same=*/true, 0, 0};
  ConvProblem p;
  p.accumulator.exponent_bits = 6;
  p.accumulator.mantissa_bits = 9;
  p.product.shape = ShapeOf(axis, axis, 1, 1, 1, 1);
  p.a.assign(9, 1.0f);
  p.b.assign(9, 1.0f);
  p.b[0] = FromBits<float>(oracle::kInf);
  const std::vector<float> c = OnGpu(p);
  for (const int i : {0, 1, 2, 3, 6}) EXPECT_TRUE(std::isfinite(c[i])) << i;
  for (const int i : {4, 5, 7, 8}) EXPECT_TRUE(std::isinf(c[i])) << i;
}

TEST(Conv2DGpu, RandomBitsStandForTheGenerators) {
  Inputs inputs(3);
  for (const int64_t chunk : {0, 7}) {
    for (const ConvPass pass : kPasses) {
      ConvProblem p = AnyProblem(inputs, pass);
      p.accumulator.rounding = static_cast<int>(Rounding::kStochastic);
      p.accumulator.chunk = chunk;
      FillOperands(inputs, 0, false, &p);
      std::vector<int32_t> bits;
      for (int64_t i = 0; i < p.Size(); ++i) {
        oracle::RandomSource random(static_cast<uint64_t>(i), p.stream, p.seed[0], p.seed[1]);
        for (int64_t step = 0; step < p.Steps(); ++step) {
          bits.push_back(static_cast<int32_t>(random.Next()));
        }
      }
      ExpectSameBits(OnGpu(p, bits.data()), OnGpu(p), p);
    }
  }
}

// Sums without terms: no input channels, or nothing but padding.
TEST(Conv2DGpu, EmptySumsAreZero) {
  for (const bool padding : {false, true}) {
    WindowAxis axis = {padding ? 0 : 3, 2, 1, 1, false, padding ? 2 : 0, padding ? 2 : 0};
    ConvProblem p;
    p.accumulator.chunk = 3;
    p.product.shape = ShapeOf(axis, axis, 2, 1, padding ? 2 : 0, 3);
    Inputs inputs(4);
    FillOperands(inputs, 0, false, &p);
    const std::vector<float> c = OnGpu(p);
    ASSERT_FALSE(c.empty());
    for (const float x : c) EXPECT_EQ(ToBits<float>(x), 0u);
  }
}

}  // namespace
}  // namespace tf_lowprec
