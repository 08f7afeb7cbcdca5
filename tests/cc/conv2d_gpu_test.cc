// The CUDA kernel of Conv2D and its gradients, on a GPU or compiled for the host against
// gpu_shim.h, gives the bits of the CPU's kernels.
#include <cmath>

#include "tests/cc/conv2d_problem.h"
#include "tests/cc/gpu_memory.h"
#include "tests/cc/gpu_outputs.h"

namespace tf_lowprec {
namespace {

LOWPREC_GPU_TEST;

std::vector<float> OnGpu(const ConvProblem& p, const std::vector<int32_t>& random_bits = {},
                         bool fast = false) {
  const ScopedDenormals denormals;
  GpuArray<float> a(p.a), b(p.b), c(p.Size());
  GpuArray<int32_t> r(random_bits);
  GpuConv2DTask task;
  task.product = p.product;
  task.a = a.data();
  task.b = b.data();
  task.c = c.data();
  task.accumulator = p.accumulator;
  memcpy(task.seed, p.seed, sizeof(task.seed));
  task.stream = p.stream;
  if (!random_bits.empty()) task.random_bits = r.data();
  GpuArray<GpuGemmScratch> scratch(1);
  if (fast) task.scratch = scratch.data();
  LaunchConv2D(task, nullptr);
  return c.Fetch();
}

bool ExpectSame(const std::vector<float>& got, const std::vector<float>& want,
                const ConvProblem& p) {
  const char* const names[] = {"Conv2D", "Conv2D backward", "Conv2D gradient"};
  return ExpectSameBits(names[static_cast<int>(p.product.pass)], got, want, p);
}

// With and without the fast paths.
bool ExpectBoth(const ConvProblem& p) {
  const std::vector<float> want = OnCpu(p);
  return ExpectSame(OnGpu(p), want, p) && ExpectSame(OnGpu(p, {}, /*fast=*/true), want, p);
}

TEST(Conv2DGpu, HasTheBitsOfTheCpu) {
  Inputs inputs(1);
  for (int i = 0; i < (IsLong() ? 3000 : 80); ++i) {
    for (const ConvPass pass : kPasses) {
      ConvProblem p = AnyProblem(inputs, pass);
      FillOperands(inputs, /*exponent=*/0, /*specials=*/inputs.OneIn(3), &p);
      if (!ExpectBoth(p)) return;
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
      if (!ExpectBoth(p)) return;
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
      ExpectSame(OnGpu(p, bits), OnGpu(p), p);
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
