// WideMatMul against 64-bit integer sums, on every instruction set that this CPU has.
#include "cc/kernels/wide_matmul.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <random>
#include <thread>
#include <vector>

namespace tf_lowprec {
namespace {

struct Problem {
  Problem(int64_t m, int64_t k, int64_t n) : m(m), k(k), n(n), a(m * k), b(k * n) {}
  int64_t m, k, n;
  std::vector<int32_t> a, b;  // [m, k] and [k, n], 16-bit integers
};

Problem RandomProblem(int64_t m, int64_t k, int64_t n, uint32_t seed) {
  Problem p(m, k, n);
  std::mt19937 random(seed);
  for (int32_t& v : p.a) v = static_cast<int16_t>(random());
  for (int32_t& v : p.b) v = static_cast<int16_t>(random());
  return p;
}

constexpr int kAFl = 14, kBFl = 9;

class WideMatMulTest : public ::testing::TestWithParam<const char*> {
 protected:
  void SetUp() override { setenv("TF_LOWPREC_ISA", GetParam(), 1); }
  void TearDown() override { unsetenv("TF_LOWPREC_ISA"); }

  static std::vector<float> Layout(const std::vector<int32_t>& x, int64_t rows, int64_t columns,
                                   bool transpose, int fl) {
    std::vector<float> out(x.size());
    for (int64_t i = 0; i < rows; ++i) {
      for (int64_t j = 0; j < columns; ++j) {
        out[transpose ? j * rows + i : i * columns + j] =
            std::ldexp(static_cast<float>(x[i * columns + j]), -fl);
      }
    }
    return out;
  }

  // The product, each phase shared out to `threads` threads.
  static std::vector<double> Run(const Problem& p, std::vector<float> a, std::vector<float> b,
                                 bool transpose_a, bool transpose_b, int threads = 1) {
    const WideMatMul kernel = ChooseWideMatMul();
    std::vector<double> c(p.m * p.n, -1.0);
    std::vector<int32_t> packed(kernel.PackedBytes(p.m, p.k) / 4);
    std::vector<uint8_t> nan(p.m);
    WideMatMulTask task;
    task.a = a.data();
    task.b = b.data();
    task.c = c.data();
    task.m = p.m;
    task.k = p.k;
    task.n = p.n;
    task.transpose_a = transpose_a;
    task.transpose_b = transpose_b;
    task.a_fractional_bits = kAFl;
    task.b_fractional_bits = kBFl;
    task.packed_a = packed.data();
    task.a_has_nan = nan.data();
    const auto share = [&](int64_t units, auto phase) {
      std::vector<std::thread> workers;
      for (int t = 0; t < threads; ++t) {
        workers.emplace_back(
            [=, &task] { phase(task, units * t / threads, units * (t + 1) / threads); });
      }
      for (std::thread& worker : workers) worker.join();
    };
    share(kernel.PackUnits(p.m), kernel.pack);
    share(kernel.MultiplyUnits(p.n), kernel.multiply);
    return c;
  }

  static void ExpectExact(const Problem& p, bool transpose_a, bool transpose_b, int threads = 1) {
    const std::vector<double> c =
        Run(p, Layout(p.a, p.m, p.k, transpose_a, kAFl), Layout(p.b, p.k, p.n, transpose_b, kBFl),
            transpose_a, transpose_b, threads);
    for (int64_t i = 0; i < p.m; ++i) {
      for (int64_t j = 0; j < p.n; ++j) {
        int64_t sum = 0;
        for (int64_t q = 0; q < p.k; ++q) sum += int64_t{p.a[i * p.k + q]} * p.b[q * p.n + j];
        ASSERT_EQ(c[i * p.n + j], std::ldexp(static_cast<double>(sum), -kAFl - kBFl))
            << i << ", " << j << " of " << p.m << "x" << p.k << "x" << p.n;
      }
    }
  }
};

TEST_P(WideMatMulTest, EveryShapeIsExact) {
  const int64_t shapes[][3] = {{1, 1, 1},    {7, 5, 3},   {4, 256, 32},  {5, 257, 33}, {3, 0, 4},
                               {1, 1000, 1}, {261, 3, 2}, {33, 513, 65}, {64, 64, 64}};
  for (const auto& s : shapes) {
    for (int transpose = 0; transpose < 4; ++transpose) {
      ExpectExact(RandomProblem(s[0], s[1], s[2], 1), transpose & 1, transpose & 2);
    }
  }
}

TEST_P(WideMatMulTest, ExtremesDoNotOverflow) {
  for (const int32_t a : {-32768, 32767}) {
    for (const int32_t b : {-32768, 32767, -32513, 255}) {
      Problem p(5, 1024, 34);
      p.a.assign(p.a.size(), a);
      p.b.assign(p.b.size(), b);
      ExpectExact(p, false, false);
    }
  }
}

TEST_P(WideMatMulTest, ThreadsDoNotChangeTheResult) {
  ExpectExact(RandomProblem(70, 300, 200, 2), false, true, 3);
}

TEST_P(WideMatMulTest, NanReachesItsRowAndColumnOnly) {
  const Problem p = RandomProblem(6, 9, 35, 3);
  for (int transpose = 0; transpose < 4; ++transpose) {
    const bool ta = transpose & 1, tb = transpose & 2;
    std::vector<float> a = Layout(p.a, p.m, p.k, ta, kAFl);
    std::vector<float> b = Layout(p.b, p.k, p.n, tb, kBFl);
    a[ta ? 8 * p.m + 2 : 2 * p.k + 8] = std::nanf("");    // a[2, 8], the odd last term
    b[tb ? 34 * p.k + 3 : 3 * p.n + 34] = std::nanf("");  // b[3, 34]
    const std::vector<double> c = Run(p, a, b, ta, tb);
    for (int64_t i = 0; i < p.m; ++i) {
      for (int64_t j = 0; j < p.n; ++j) {
        ASSERT_EQ(std::isnan(c[i * p.n + j]), i == 2 || j == 34) << i << ", " << j;
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Isa, WideMatMulTest, ::testing::Values("portable", "avx2", "avx512"),
                         [](const auto& info) { return std::string(info.param); });

}  // namespace
}  // namespace tf_lowprec
