// The CUDA kernel of AlignedMatMul, on a GPU or compiled for the host against gpu_shim.h, gives the
// bits of the CPU's kernel.
#include <algorithm>
#include <limits>
#include <tuple>
#include <vector>

#include "cc/kernels/aligned_matmul.h"
#include "gtest/gtest.h"
#include "tests/cc/aligned_problem.h"
#include "tests/cc/gpu_memory.h"
#include "tests/cc/gpu_outputs.h"

namespace tf_lowprec {
namespace {

LOWPREC_GPU_TEST;

using aligned::Format;
using aligned::kE4M3;
using aligned::kE5M2;
using aligned::kFp16;
using aligned::Layout;
using aligned::Problem;

// Products of several problems of one shape, in one launch.
void ExpectTheCpusBits(const std::vector<Problem>& problems, bool transpose_a = false,
                       bool transpose_b = false) {
  const Problem& first = problems[0];
  std::vector<float> a, b, want;
  const auto append = [](const std::vector<float>& x, std::vector<float>* to) {
    to->insert(to->end(), x.begin(), x.end());
  };
  for (const Problem& p : problems) {
    append(Layout(p.a, p.m, p.k, transpose_a), &a);
    append(Layout(p.b, p.k, p.n, transpose_b), &b);
    append(Multiply(p, transpose_a, transpose_b), &want);
  }
  GpuArray<float> device_a(a), device_b(b), c(static_cast<int64_t>(want.size()));
  AlignedMatMulTask task = MakeTask(first, transpose_a, transpose_b);
  task.a = device_a.data();
  task.b = device_b.data();
  task.c = c.data();
  LaunchAlignedMatMul(task, static_cast<int64_t>(problems.size()), nullptr);
  ExpectSameBits("AlignedMatMul", c.Fetch(), want,
                 testing::PrintToString(std::tuple(first.m, first.k, first.n, first.group,
                                                   first.fraction_bits, first.nearest)));
}

Problem Filled(Problem p, uint32_t seed = 1) {
  p.Fill(seed);
  return p;
}

TEST(AlignedMatMulGpu, ShapesAndTransposes) {
  const int64_t shapes[][3] = {{1, 1, 1}, {3, 0, 4}, {5, 31, 7}, {16, 64, 16}, {33, 129, 17}};
  for (const auto& s : shapes) {
    const Problem p = {s[0], s[1], s[2]};
    for (int transpose = 0; transpose < 4; ++transpose) {
      ExpectTheCpusBits({Filled(p, 1), Filled(p, 2), Filled(p, 3)}, (transpose & 1) != 0,
                        (transpose & 2) != 0);
    }
  }
}

TEST(AlignedMatMulGpu, Formats) {
  for (const Format& a : {kE5M2, kE4M3, kFp16}) {
    for (const Format& b : {kE5M2, kE4M3, kFp16}) ExpectTheCpusBits({Filled({6, 150, 40, a, b})});
  }
}

// 65 and 200: groups that are not brought into shared memory.
TEST(AlignedMatMulGpu, GroupsAndAccumulators) {
  for (const int64_t group : {1, 4, 24, 64, 65, 200}) {
    for (const int fraction_bits : {7, 13, 26}) {
      for (const bool nearest : {false, true}) {
        for (const int64_t promote : {int64_t{0}, 2 * group}) {
          ExpectTheCpusBits({Filled({4, 150, 19, kE4M3, kE5M2, group, fraction_bits,
                                     std::min(fraction_bits + 2, 23), nearest, promote})});
        }
      }
    }
  }
}

TEST(AlignedMatMulGpu, NanAndInfinity) {
  for (const int64_t group : {32, 100}) {
    Problem p = {5, 140, 18};
    p.group = group;
    p.Fill(2);
    const float infinity = std::numeric_limits<float>::infinity();
    p.a[1 * p.k + 3] = infinity;
    p.a[2 * p.k + 39] = std::numeric_limits<float>::quiet_NaN();
    p.a[3 * p.k + 0] = infinity;
    p.b[0 * p.n + 16] = 0;
    p.b[139 * p.n + 17] = -infinity;
    ExpectTheCpusBits({p});
  }
}

}  // namespace
}  // namespace tf_lowprec
