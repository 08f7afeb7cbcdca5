// The body of the CUDA kernel of MatMul, compiled for the host against gpu_shim.h, gives the bits
// of the CPU's kernels.
#include "cc/kernels/matmul_gpu.h"

#include <cstring>
#include <iostream>
#include <random>
#include <vector>

#include "cc/kernels/float_mode.h"
#include "gtest/gtest.h"

namespace tf_lowprec {
namespace {

int64_t compared = 0;

struct Case {
  int64_t m, n, k;
  bool transpose_a, transpose_b;
  AccumulatorSpec accumulator;
  bool random_bits = false;
};

// Values of 8 significant bits around 1, and now and then any float32.
std::vector<float> Inputs(int64_t n, int seed, bool any) {
  std::mt19937_64 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> x(n);
  for (float& value : x) {
    const uint32_t bits = static_cast<uint32_t>(random());
    value = any && random() % 64 == 0 ? FromBits<float>(bits)
                                      : FromBits<float>(ToBits<float>(normal(random)) & ~0xFFFFu);
  }
  return x;
}

void ExpectSameBits(const Case& c, bool any_floats) {
  const ScopedDenormals denormals;
  const std::vector<float> a = Inputs(c.m * c.k, 1, any_floats);
  const std::vector<float> b = Inputs(c.k * c.n, 2, any_floats);
  const MatMul cpu = ChooseMatMul();
  const auto pack = [&](const std::vector<float>& x, int64_t lanes, bool lanes_last, int width,
                        std::vector<float>* packed, std::vector<PanelRange>* ranges) {
    PackTask task;
    task.x = x.data();
    task.lanes = lanes;
    task.k = c.k;
    task.lanes_last = lanes_last;
    task.width = width;
    packed->resize(task.Panels() * width * c.k);
    ranges->resize(task.Panels());
    task.packed = packed->data();
    task.range = ranges->data();
    cpu.pack(task, 0, MatMul::PackUnits(task));
  };
  std::vector<float> packed_a, packed_b, want(c.m * c.n), got(c.m * c.n);
  std::vector<PanelRange> a_ranges, b_ranges;
  pack(a, c.m, c.transpose_a, cpu.rows, &packed_a, &a_ranges);
  pack(b, c.n, !c.transpose_b, cpu.columns, &packed_b, &b_ranges);
  MatMulTask task;
  task.a = packed_a.data();
  task.b = packed_b.data();
  task.a_range = a_ranges.data();
  task.b_range = b_ranges.data();
  task.c = want.data();
  task.m = c.m;
  task.n = c.n;
  task.k = c.k;
  task.accumulator = c.accumulator;
  task.seed[0] = 0xDEADBEEF;
  task.seed[1] = 5;
  task.stream = 10;
  std::vector<int32_t> random_bits(c.random_bits ? c.m * c.n * task.Steps() : 0);
  std::mt19937 random(3);
  for (int32_t& r : random_bits) r = static_cast<int32_t>(random() >> 16);
  if (c.random_bits) task.random_bits = random_bits.data();
  cpu.multiply(task, 0, cpu.Tiles(c.m, c.n));

  GpuMatMulTask gpu;
  gpu.a = a.data();
  gpu.b = b.data();
  gpu.c = got.data();
  gpu.m = c.m;
  gpu.n = c.n;
  gpu.k = c.k;
  gpu.transpose_a = c.transpose_a;
  gpu.transpose_b = c.transpose_b;
  gpu.accumulator = c.accumulator;
  gpu.seed[0] = task.seed[0];
  gpu.seed[1] = task.seed[1];
  gpu.stream = task.stream;
  gpu.random_bits = task.random_bits;
  LaunchMatMulRounding(gpu, nullptr);
  ASSERT_EQ(memcmp(got.data(), want.data(), got.size() * sizeof(float)), 0)
      << c.m << "x" << c.k << "x" << c.n << ", m = " << c.accumulator.mantissa_bits << ", rounding "
      << c.accumulator.rounding << ", chunk " << c.accumulator.chunk;
  compared += static_cast<int64_t>(got.size());
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
        ExpectSameBits({33, 20, 50, false, false, spec}, false);
        ExpectSameBits({5, 35, 16, true, true, spec}, true);
      }
    }
  }
}

TEST(MatMulGpu, TransposesAndOddShapes) {
  const AccumulatorSpec spec = Accumulator(6, 9, 0, 16);
  for (bool transpose_a : {false, true}) {
    for (bool transpose_b : {false, true}) {
      for (const auto& [m, n, k] : {std::tuple{1, 1, 1}, {1, 17, 0}, {16, 16, 16}, {31, 1, 33}}) {
        ExpectSameBits({m, n, k, transpose_a, transpose_b, spec}, false);
      }
    }
  }
}

TEST(MatMulGpu, NoSubnormals) {
  AccumulatorSpec spec = Accumulator(3, 4, 2, 8);
  spec.subnormals = false;
  ExpectSameBits({20, 20, 30, false, false, spec}, false);
}

TEST(MatMulGpu, RandomBits) {
  ExpectSameBits({9, 21, 30, false, true, Accumulator(6, 7, 2, 8), true}, false);
  ExpectSameBits({9, 21, 30, true, false, Accumulator(6, 7, 2, 0), true}, false);
}

TEST(MatMulGpu, BatchesFollowEachOther) {
  const int64_t m = 5, n = 6, k = 7, batches = 3;
  const std::vector<float> a = Inputs(batches * m * k, 1, false), b = Inputs(k * n, 2, false);
  std::vector<float> all(batches * m * n), each(batches * m * n);
  GpuMatMulTask task;
  task.a = a.data();
  task.b = b.data();
  task.c = all.data();
  task.m = m;
  task.n = n;
  task.k = k;
  task.a_step = m * k;
  task.accumulator = Accumulator(6, 7, 2, 0);
  task.batches = batches;
  LaunchMatMulRounding(task, nullptr);
  task.batches = 1;
  for (int64_t i = 0; i < batches; ++i) {
    task.a = a.data() + i * m * k;
    task.c = each.data() + i * m * n;
    task.index = i * m * n;
    LaunchMatMulRounding(task, nullptr);
  }
  EXPECT_EQ(memcmp(all.data(), each.data(), all.size() * sizeof(float)), 0);
}

// Last: how much was compared.
TEST(MatMulGpu, ZzzCount) {
  std::cout << compared << " outputs compared bit for bit\n";
  EXPECT_GT(compared, 50000);
}

}  // namespace
}  // namespace tf_lowprec
