// The fixture of the tests of MatMul: one instruction set's kernels against the oracle.
#ifndef TF_LOWPREC_TESTS_CC_MATMUL_FIXTURE_H_
#define TF_LOWPREC_TESTS_CC_MATMUL_FIXTURE_H_

#include <algorithm>
#include <cstdint>
#include <set>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "tests/cc/accumulate_inputs.h"
#include "tests/cc/matmul_problem.h"

namespace tf_lowprec {

constexpr int kShortRounds = 1, kLongRounds = 40;

class MatMulTest : public testing::TestWithParam<IsaUnderTest> {
 protected:
  void SetUp() override {
    if (!ChooseKernel(GetParam(), &kernel_)) GTEST_SKIP() << "this CPU has no " << GetParam().name;
  }

  // Every output of p against the oracle; whether they are equal.
  bool Check(const Problem& p) {
    Product run(kernel_, p);
    run.All();
    EXPECT_FALSE(run.WroteBeyond()) << p;
    const std::vector<PathChoice> paths = run.Paths(GetParam().support);
    for (const PathChoice& path : paths) reached_.insert({path.path, path.may_underflow});
    Comparisons::Add(p.m * p.n);
    for (int64_t row = 0; row < p.m; ++row) {
      for (int64_t column = 0; column < p.n; ++column) {
        const uint32_t got = run.At(row, column), want = Expected(p, row, column);
        if (got == want) continue;
        const int64_t row_tiles = (p.m + kernel_.rows - 1) / kernel_.rows;
        const PathChoice& path = paths[column / kernel_.columns * row_tiles + row / kernel_.rows];
        ADD_FAILURE() << p << ", element (" << row << ", " << column << "), path "
                      << PathName(path.path) << (path.may_underflow ? " with underflow" : "")
                      << std::hexfloat << ": got " << FromBits<float>(got) << ", want "
                      << FromBits<float>(want) << "\n"
                      << Operands(p, row, column);
        return false;
      }
    }
    return true;
  }

  static std::string Operands(const Problem& p, int64_t row, int64_t column) {
    std::ostringstream out;
    out << std::hexfloat;
    for (int64_t k = 0; k < std::min<int64_t>(p.k, 12); ++k) {
      out << FromBits<float>(p.a[row * p.k + k]) << " * " << FromBits<float>(p.b[k * p.n + column])
          << "\n";
    }
    return out.str();
  }

  static int Rounds(int count) { return count * (IsLong() ? kLongRounds : kShortRounds); }

  MatMul kernel_;
  Inputs inputs_{11};
  std::set<std::pair<AccumulationPath, bool>> reached_;
};

}  // namespace tf_lowprec

#endif  // TF_LOWPREC_TESTS_CC_MATMUL_FIXTURE_H_
