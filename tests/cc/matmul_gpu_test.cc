// The CUDA kernel of MatMul, on a GPU or compiled for the host against gpu_shim.h, gives the bits
// of the CPU's kernels.
#include <cstring>
#include <map>
#include <tuple>
#include <vector>

#include "cc/kernels/float_mode.h"
#include "cc/kernels/matmul.h"
#include "gtest/gtest.h"
#include "tests/cc/accumulate_inputs.h"
#include "tests/cc/gpu_memory.h"
#include "tests/cc/gpu_outputs.h"
#include "tests/cc/matmul_cases.h"
#include "tests/cc/matmul_problem.h"

namespace tf_lowprec {
namespace {

LOWPREC_GPU_TEST;

std::map<int, int> paths_taken;  // how often

// Values of 8 significant bits around 1, and with `any` now and then any float32.
void Fill(Inputs& inputs, bool any, std::vector<uint32_t>* x) {
  for (uint32_t& value : *x) {
    value = any && inputs.OneIn(64) ? static_cast<uint32_t>(inputs.Bits())
                                    : inputs.Value(inputs.Between(-4, 1), 8);
  }
}

Problem MakeProblem(int64_t m, int64_t n, int64_t k, const AccumulatorSpec& accumulator,
                    bool any = false) {
  Problem p;
  p.m = m;
  p.n = n;
  p.k = k;
  p.accumulator = accumulator;
  p.Resize();
  Inputs inputs(1);
  Fill(inputs, any, &p.a);
  Fill(inputs, any, &p.b);
  return p;
}

void ExpectTheCpusBits(const Problem& p) {
  const ScopedDenormals denormals;
  const MatMul cpu = ChooseMatMul();
  Product run(cpu, p);
  run.All();
  GpuArray<float> a(run.left().x, p.a.size()), b(run.right().x, p.b.size()), c(p.m * p.n);
  GpuArray<int32_t> random_bits(p.random_bits);
  GpuMatMulTask task;
  task.a = a.data();
  task.b = b.data();
  task.c = c.data();
  task.m = p.m;
  task.n = p.n;
  task.k = p.k;
  task.transpose_a = p.a_lanes_last;
  task.transpose_b = !p.b_lanes_last;
  task.accumulator = p.accumulator;
  memcpy(task.seed, p.seed, sizeof(task.seed));
  task.stream = p.stream;
  task.index = p.index;
  if (!p.random_bits.empty()) task.random_bits = random_bits.data();
  LaunchMatMul(task, nullptr);
  ExpectSameBits("MatMul", c.Fetch(), run.Values(), p);
  GpuArray<GpuGemmScratch> scratch(1);
  GpuArray<float> fast(p.m * p.n);
  task.c = fast.data();
  task.a_spec = p.a_spec;
  task.b_spec = p.b_spec;
  task.scratch = scratch.data();
  LaunchMatMul(task, nullptr);
  ExpectSameBits("MatMul, fast paths", fast.Fetch(), run.Values(), p);
  ++paths_taken[scratch.Fetch()[0].path];
}

AccumulatorSpec Accumulator(int e, int m, int rounding, int64_t chunk) {
  AccumulatorSpec spec;
  spec.exponent_bits = e;
  spec.mantissa_bits = m;
  spec.rounding = rounding;
  spec.chunk = chunk;
  return spec;
}

TEST(MatMulGpu, HasTheBitsOfTheCpu) {
  for (int rounding = 0; rounding < 4; ++rounding) {
    for (int m : {0, 3, 9, 12, 23}) {
      for (int64_t chunk : {0, 1, 7, 16, 64}) {
        const AccumulatorSpec spec = Accumulator(6, m, rounding, chunk);
        ExpectTheCpusBits(MakeProblem(33, 20, 50, spec));
        Problem p = MakeProblem(5, 35, 16, spec, /*any=*/true);
        p.a_lanes_last = true;
        p.b_lanes_last = false;
        p.index = 1000;
        ExpectTheCpusBits(p);
      }
    }
  }
}

TEST(MatMulGpu, TransposesAndOddShapes) {
  for (bool a_lanes_last : {false, true}) {
    for (bool b_lanes_last : {false, true}) {
      for (const auto& [m, n, k] : {std::tuple{1, 1, 1}, {1, 17, 0}, {16, 16, 16}, {31, 1, 33}}) {
        Problem p = MakeProblem(m, n, k, Accumulator(6, 9, 0, 16));
        p.a_lanes_last = a_lanes_last;
        p.b_lanes_last = b_lanes_last;
        ExpectTheCpusBits(p);
      }
    }
  }
}

TEST(MatMulGpu, NoSubnormals) {
  AccumulatorSpec spec = Accumulator(3, 4, 2, 8);
  spec.subnormals = false;
  ExpectTheCpusBits(MakeProblem(20, 20, 30, spec));
}

TEST(MatMulGpu, RandomBits) {
  Inputs inputs(2);
  for (int64_t chunk : {0, 8}) {
    Problem p = MakeProblem(9, 21, 30, Accumulator(6, 7, 2, chunk));
    for (int64_t i = 0; i < p.m * p.n * (p.k + p.Chunks()); ++i) {
      p.random_bits.push_back(static_cast<int32_t>(inputs.RandomR()));
    }
    ExpectTheCpusBits(p);
    // They stand for the generator's.
    p.random_bits = DrawnBits(p);
    ExpectTheCpusBits(p);
  }
}

// Rounded to nearest twice, a float32 sum would be wrong: products of 24 bits, and m up to 21.
TEST(MatMulGpu, WideOperands) {
  Inputs inputs(3);
  for (const int m : {1, 9, 10, 11, 12, 20, 21, 22, 23}) {
    for (const int e : {5, 8}) {
      for (const int64_t chunk : {0, 5}) {
        Problem p = MakeProblem(40, 70, 24, Accumulator(e, m, 0, chunk));
        for (const bool low : {false, true}) {
          const int exponent = low ? (e == 8 ? -66 : -9) : 0;
          for (uint32_t& x : p.a) x = inputs.Value(exponent + inputs.Between(-3, 1), 24);
          for (uint32_t& x : p.b) x = inputs.Value(exponent + inputs.Between(-3, 1), 24);
          ExpectTheCpusBits(p);
        }
      }
    }
  }
}

// Sums that come to lie on ties of the accumulator, or next to them.
TEST(MatMulGpu, Ties) {
  Inputs inputs(4);
  for (int i = 0; i < 60; ++i) {
    Problem p;
    p.m = 70;
    p.n = 6;
    p.SetFormat(inputs.AnyFormat(inputs.Between(2, 21)));
    p.accumulator.rounding = static_cast<int>(inputs.OneOf(kRoundings));
    FillTies(inputs, inputs.Between(2, 24), inputs.Between(2, 24), inputs.OneIn(2),
             inputs.Between(1, 26), &p);
    ExpectTheCpusBits(p);
  }
}

TEST(MatMulGpu, AnyFormatsAndOperands) {
  Inputs inputs(5);
  for (int i = 0; i < 150; ++i) {
    Problem p;
    p.m = inputs.Between(1, 20);
    p.n = inputs.Between(1, 70);
    p.k = inputs.Between(1, 40);
    p.SetFormat(inputs.AnyFormat());
    p.accumulator.rounding = static_cast<int>(inputs.OneOf(kRoundings));
    const int64_t chunks[] = {0, 1, 7, 16};
    p.accumulator.chunk = inputs.OneOf(chunks);
    p.a_lanes_last = inputs.OneIn(2);
    p.b_lanes_last = inputs.OneIn(2);
    p.Resize();
    const OperandFormat& a = inputs.OneOf(kOperandFormats);
    const OperandFormat& b = inputs.OneOf(kOperandFormats);
    FillRandom(inputs, a, b, AnySpread(inputs, p, a, b), &p);
    if (inputs.OneIn(4)) MakeSparse(inputs, &p);
    if (inputs.OneIn(4)) MakeCancel(inputs, &p);
    if (inputs.OneIn(8)) AddSpecials(inputs, &p);
    ExpectTheCpusBits(p);
  }
}

TEST(MatMulGpu, BatchesFollowEachOther) {
  const int64_t m = 5, n = 6, k = 7, batches = 3;
  const Problem p = MakeProblem(batches * m, n, k, Accumulator(6, 7, 2, 0));
  const PackedOperand left(p.a, false, batches * m, k, false, 1), right(p.b, true, n, k, true, 1);
  GpuArray<float> a(left.x), b(right.x), all(batches * m * n), each(batches * m * n);
  GpuMatMulTask task;
  task.a = a.data();
  task.b = b.data();
  task.c = all.data();
  task.m = m;
  task.n = n;
  task.k = k;
  task.a_step = m * k;
  task.accumulator = p.accumulator;
  task.batches = batches;
  GpuArray<GpuGemmScratch> scratch(1);
  task.scratch = scratch.data();
  LaunchMatMul(task, nullptr);
  task.scratch = nullptr;
  task.batches = 1;
  for (int64_t i = 0; i < batches; ++i) {
    task.a = a.data() + i * m * k;
    task.c = each.data() + i * m * n;
    task.index = i * m * n;
    LaunchMatMul(task, nullptr);
  }
  ExpectSameBits("MatMul", all.Fetch(), each.Fetch(), "in batches");
}

// Last.
TEST(MatMulGpu, ZzzEveryPathWasTaken) {
  for (const AccumulationPath path :
       {AccumulationPath::kExact, AccumulationPath::kNearest, AccumulationPath::kNearestDouble,
        AccumulationPath::kNearestOdd, AccumulationPath::kFma, AccumulationPath::kTruncate,
        AccumulationPath::kStochastic}) {
    EXPECT_GT(paths_taken[static_cast<int>(path)], 1) << PathName(path);
  }
}

}  // namespace
}  // namespace tf_lowprec
