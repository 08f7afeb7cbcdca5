// Convolutions to be computed in several ways, for tests.
#ifndef TF_LOWPREC_TESTS_CC_CONV2D_PROBLEM_H_
#define TF_LOWPREC_TESTS_CC_CONV2D_PROBLEM_H_

#include <cstdlib>
#include <cstring>
#include <memory>
#include <ostream>
#include <vector>

#include "cc/kernels/accumulation_path.h"
#include "cc/kernels/conv2d.h"
#include "cc/kernels/float_mode.h"
#include "cc/numerics/accumulate.h"
#include "cc/numerics/window.h"
#include "gtest/gtest.h"
#include "tests/cc/accumulate_inputs.h"

namespace tf_lowprec {

constexpr ConvPass kPasses[] = {ConvPass::kForward, ConvPass::kBackward, ConvPass::kGradient};

struct ConvProblem {
  ConvProduct product;
  AccumulatorSpec accumulator;
  OperandSpec spec;         // of both operands
  std::vector<float> a, b;  // the image and the right operand, as GpuConv2DTask has them
  uint32_t seed[2] = {0xDEADBEEFu, 5};
  uint64_t stream = (uint64_t{2} << 32) + 3;

  int64_t Size() const { return product.Rows() * product.ResultStep(); }
  int64_t Steps() const {
    const int64_t chunk = accumulator.chunk, k = product.Length();
    return k + (chunk > 0 ? (k + chunk - 1) / chunk : 0);
  }
};

inline std::ostream& operator<<(std::ostream& out, const ConvProblem& p) {
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
inline std::vector<float> Values(Inputs& inputs, int64_t size, int exponent, bool specials) {
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
inline WindowAxis AnyAxis(Inputs& inputs) {
  WindowAxis axis = {};
  axis.filter = inputs.Between(1, 4);
  axis.stride = inputs.Between(1, 3);
  axis.dilation = inputs.Between(1, 2);
  axis.in = axis.Extent() + inputs.Between(0, 6);
  axis.same = inputs.OneIn(2);
  if (axis.same && inputs.OneIn(4)) axis.in = inputs.Between(1, axis.in);
  if (!axis.same && inputs.OneIn(2)) {
    axis.before = inputs.Between(0, 3);
    axis.after = inputs.Between(0, 3);
  }
  return axis;
}

inline ConvShape ShapeOf(const WindowAxis& height, const WindowAxis& width, int64_t batch,
                         int64_t groups, int64_t group_in, int64_t group_out) {
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

inline void FillOperands(Inputs& inputs, int exponent, bool specials, ConvProblem* p) {
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

inline void OneThread(int64_t total, int64_t, const std::function<void(int64_t, int64_t)>& work) {
  work(0, total);
}

// By the CPU's kernels, for the fastest instruction set.
inline std::vector<float> OnCpu(const ConvProblem& p, const ConvBudget& budget = ConvBudget(),
                                const ParallelFor& parallel_for = OneThread, int threads = 1,
                                const Conv2D& cpu = ChooseConv2D()) {
  const ScopedDenormals denormals;
  std::vector<float> c(p.Size());
  ConvTask task;
  task.product = p.product;
  task.image = p.a.data();
  task.b = p.b.data();
  task.c = c.data();
  task.accumulator = p.accumulator;
  task.a_spec = task.b_spec = p.spec;
  memcpy(task.seed, p.seed, sizeof(task.seed));
  task.stream = p.stream;
  const ConvPlan plan = PlanConv2D(cpu, task, threads, budget);
  std::vector<float> source(plan.source_size), packed(plan.packed_size);
  const std::unique_ptr<void, Free> tiles(
      aligned_alloc(64, static_cast<size_t>(plan.tile_bytes) + 64));
  EXPECT_TRUE(
      RunConv2D(cpu, plan, task, {source.data(), packed.data(), tiles.get()}, parallel_for));
  return c;
}

inline void ExpectSameBits(const std::vector<float>& got, const std::vector<float>& want,
                           const ConvProblem& p) {
  ASSERT_EQ(got.size(), want.size());
  for (size_t i = 0; i < got.size(); ++i) {
    ASSERT_EQ(ToBits<float>(got[i]), ToBits<float>(want[i]))
        << p << ", element " << i << ": " << got[i] << " and " << want[i];
  }
  Comparisons::Add(static_cast<int64_t>(got.size()));
}

inline ConvProblem AnyProblem(Inputs& inputs, ConvPass pass) {
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

}  // namespace tf_lowprec

#endif  // TF_LOWPREC_TESTS_CC_CONV2D_PROBLEM_H_
