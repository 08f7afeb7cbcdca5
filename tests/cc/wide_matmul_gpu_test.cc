// The CUDA kernel of WideMatMul, on a GPU or compiled for the host against gpu_shim.h, against
// 64-bit integer sums.
#include <cmath>
#include <limits>
#include <random>
#include <tuple>
#include <vector>

#include "cc/kernels/wide_matmul.h"
#include "gtest/gtest.h"
#include "tests/cc/gpu_memory.h"
#include "tests/cc/gpu_outputs.h"

namespace tf_lowprec {
namespace {

LOWPREC_GPU_TEST;

void ExpectExactSums(int64_t m, int64_t k, int64_t n, int64_t batches, bool transpose_a,
                     bool transpose_b) {
  constexpr int kAFl = 14, kBFl = 9;
  std::mt19937 random(7);
  std::vector<float> a(batches * m * k), b(batches * k * n);
  for (float& x : a) x = std::ldexp(static_cast<float>(static_cast<int16_t>(random())), -kAFl);
  for (float& x : b) x = std::ldexp(static_cast<float>(static_cast<int16_t>(random())), -kBFl);
  GpuArray<float> device_a(a), device_b(b);
  GpuArray<double> c(batches * m * n);
  WideMatMulTask task;
  task.a = device_a.data();
  task.b = device_b.data();
  task.c = c.data();
  task.m = m;
  task.k = k;
  task.n = n;
  task.transpose_a = transpose_a;
  task.transpose_b = transpose_b;
  task.a_fractional_bits = kAFl;
  task.b_fractional_bits = kBFl;
  LaunchWideMatMul(task, batches, nullptr);
  std::vector<double> want;
  for (int64_t batch = 0; batch < batches; ++batch) {
    for (int64_t i = 0; i < m; ++i) {
      for (int64_t j = 0; j < n; ++j) {
        int64_t sum = 0;
        for (int64_t p = 0; p < k; ++p) {
          const float x = a[batch * m * k + (transpose_a ? p * m + i : i * k + p)];
          const float y = b[batch * k * n + (transpose_b ? j * k + p : p * n + j)];
          sum +=
              static_cast<int64_t>(std::ldexp(x, kAFl)) * static_cast<int64_t>(std::ldexp(y, kBFl));
        }
        want.push_back(std::ldexp(static_cast<double>(sum), -kAFl - kBFl));
      }
    }
  }
  ExpectSameBits("WideMatMul", c.Fetch(), want, testing::PrintToString(std::tuple(m, k, n)));
}

TEST(WideMatMulGpu, IsExact) {
  for (bool transpose_a : {false, true}) {
    for (bool transpose_b : {false, true}) {
      ExpectExactSums(1, 1, 1, 1, transpose_a, transpose_b);
      ExpectExactSums(16, 16, 16, 2, transpose_a, transpose_b);
      ExpectExactSums(33, 1000, 17, 3, transpose_a, transpose_b);
    }
  }
  ExpectExactSums(5, 0, 3, 1, false, false);
}

TEST(WideMatMulGpu, NanReachesItsSums) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  GpuArray<float> a(std::vector<float>{1, nan, 1, 1}), b(std::vector<float>(4, 1.0f));
  GpuArray<double> device_c(4);
  WideMatMulTask task;
  task.a = a.data();
  task.b = b.data();
  task.c = device_c.data();
  task.m = task.k = task.n = 2;
  LaunchWideMatMul(task, 1, nullptr);
  const std::vector<double> c = device_c.Fetch();
  EXPECT_TRUE(std::isnan(c[0]) && std::isnan(c[1]));
  EXPECT_EQ(c[2], 2.0);
  EXPECT_EQ(c[3], 2.0);
}

}  // namespace
}  // namespace tf_lowprec
