// A product of matrices as the tests of MatMul state it: run by the kernels, and by the oracle.
#ifndef TF_LOWPREC_TESTS_CC_MATMUL_PROBLEM_H_
#define TF_LOWPREC_TESTS_CC_MATMUL_PROBLEM_H_

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <iomanip>
#include <ostream>
#include <string>
#include <vector>

#include "cc/kernels/accumulation_path.h"
#include "cc/kernels/cpu_features.h"
#include "cc/kernels/matmul.h"
#include "tests/cc/accumulate_inputs.h"
#include "tests/cc/accumulate_oracle.h"

namespace tf_lowprec {

struct Problem {
  int64_t m = 1, n = 1, k = 1;
  std::vector<uint32_t> a, b;  // [m, k] and [k, n], as bits
  AccumulatorSpec accumulator;
  OperandSpec a_spec, b_spec;
  bool a_lanes_last = false, b_lanes_last = true;
  uint32_t seed[2] = {5, 0x9ABCDEF0u};
  uint64_t stream = (uint64_t{2} << 32) + 3;
  int64_t index = 0;
  std::vector<int32_t> random_bits;  // or empty

  void Resize() {
    a.assign(m * k, 0);
    b.assign(k * n, 0);
  }
  int64_t Chunks() const {
    return accumulator.chunk > 0 ? (k + accumulator.chunk - 1) / accumulator.chunk : 0;
  }
  FloatFormat Format() const { return AccumulatorFormat(accumulator); }
  void SetFormat(const FloatFormat& f) {
    accumulator.exponent_bits = f.exponent_bits;
    accumulator.mantissa_bits = f.mantissa_bits;
    accumulator.specials = static_cast<int>(f.specials);
    accumulator.saturate = f.saturate;
    accumulator.subnormals = f.subnormals;
  }
};

inline std::ostream& operator<<(std::ostream& out, const Problem& p) {
  return out << p.m << "x" << p.k << "x" << p.n << " " << p.Format() << " rounding "
             << p.accumulator.rounding << " chunk " << p.accumulator.chunk << " operand bits "
             << p.a_spec.bits << ", " << p.b_spec.bits << " quanta 2^" << p.a_spec.min_quantum
             << ", 2^" << p.b_spec.min_quantum;
}

// The oracle's r of each rounding, as MatMulTask takes them.
inline std::vector<int32_t> DrawnBits(const Problem& p) {
  std::vector<int32_t> bits;
  for (int64_t i = 0; i < p.m * p.n; ++i) {
    oracle::RandomSource random(static_cast<uint64_t>(p.index + i), p.stream, p.seed[0], p.seed[1]);
    for (int64_t step = 0; step < p.k + p.Chunks(); ++step) {
      bits.push_back(static_cast<int32_t>(random.Next()));
    }
  }
  return bits;
}

inline uint32_t Expected(const Problem& p, int64_t row, int64_t column) {
  const oracle::Dot dot = {p.Format(), static_cast<Rounding>(p.accumulator.rounding),
                           p.accumulator.chunk};
  const int64_t element = row * p.n + column;
  const oracle::RandomSource random =
      p.random_bits.empty()
          ? oracle::RandomSource(static_cast<uint64_t>(p.index + element), p.stream, p.seed[0],
                                 p.seed[1])
          : oracle::RandomSource(p.random_bits.data() + element * (p.k + p.Chunks()));
  return dot(p.a.data() + row * p.k, 1, p.b.data() + column, p.n, p.k, random);
}

// An operand of a Problem, packed. `lanes` x k values, as the problem's layout says.
struct PackedOperand {
  std::vector<float> x, packed;
  std::vector<PanelRange> ranges;
  std::vector<int16_t> bounds;
  PackTask task;

  PackedOperand(const std::vector<uint32_t>& bits, bool transpose, int64_t lanes, int64_t k,
                bool lanes_last, int width) {
    x.resize(bits.size() + 1);
    for (int64_t lane = 0; lane < lanes; ++lane) {
      for (int64_t i = 0; i < k; ++i) {
        const uint32_t value = bits[transpose ? i * lanes + lane : lane * k + i];
        std::memcpy(&x[lanes_last ? i * lanes + lane : lane * k + i], &value, sizeof(value));
      }
    }
    task.x = x.data();
    task.lanes = lanes;
    task.k = k;
    task.lanes_last = lanes_last;
    task.width = width;
    ranges.resize(task.Panels());
    // What is not written shows: NaN.
    packed.assign(task.Panels() * k * width + 1, FromBits<float>(oracle::kNan));
    task.packed = packed.data();
    task.range = ranges.data();
  }
  PackedOperand(const PackedOperand&) = delete;

  int16_t* MakeBounds() {
    bounds.resize(2 * task.Panels() * task.k);
    return task.bounds = bounds.data();
  }
};

// Packs p's operands and multiplies them.
class Product {
 public:
  Product(const MatMul& kernel, const Problem& p)
      : kernel_(kernel),
        left_(p.a, /*transpose=*/false, p.m, p.k, p.a_lanes_last, kernel.rows),
        right_(p.b, /*transpose=*/true, p.n, p.k, p.b_lanes_last, kernel.columns),
        c_(p.m * p.n + 1, 12345.0f) {
    task_.m = p.m;
    task_.n = p.n;
    task_.k = p.k;
    task_.accumulator = p.accumulator;
    task_.a_spec = p.a_spec;
    task_.b_spec = p.b_spec;
    task_.seed[0] = p.seed[0];
    task_.seed[1] = p.seed[1];
    task_.stream = p.stream;
    task_.index = p.index;
    task_.random_bits = p.random_bits.empty() ? nullptr : p.random_bits.data();
    task_.c = c_.data();
    task_.a = left_.packed.data();
    task_.b = right_.packed.data();
    task_.a_range = left_.ranges.data();
    task_.b_range = right_.ranges.data();
    if (kernel.wants_bounds(task_)) {
      left_.task.spec = p.a_spec;
      right_.task.spec = p.b_spec;
      task_.a_bounds = left_.MakeBounds();
      task_.b_bounds = right_.MakeBounds();
    }
  }

  PackTask& left() { return left_.task; }
  PackTask& right() { return right_.task; }
  MatMulTask& task() { return task_; }
  int64_t Tiles() const { return kernel_.Tiles(task_.m, task_.n); }
  void Pack() {
    kernel_.pack(left_.task, 0, MatMul::PackUnits(left_.task));
    kernel_.pack(right_.task, 0, MatMul::PackUnits(right_.task));
  }
  void Multiply(int64_t begin, int64_t end) { kernel_.multiply(task_, begin, end); }
  void All() {
    Pack();
    Multiply(0, Tiles());
  }

  uint32_t At(int64_t row, int64_t column) const {
    return ToBits<float>(c_[row * task_.n + column]);
  }
  std::vector<uint32_t> Bits() const {
    std::vector<uint32_t> bits;
    for (size_t i = 0; i + 1 < c_.size(); ++i) bits.push_back(ToBits<float>(c_[i]));
    return bits;
  }
  std::vector<float> Values() const { return {c_.begin(), c_.end() - 1}; }
  bool WroteBeyond() const { return c_.back() != 12345.0f; }

  // Of each tile, in the order of Multiply, as the kernel chooses it.
  std::vector<PathChoice> Paths(const PathSupport& support) const {
    std::vector<PathChoice> paths;
    for (const PanelRange& right : right_.ranges) {
      for (const PanelRange& left : left_.ranges) {
        paths.push_back(ChoosePath(task_.accumulator, task_.a_spec, task_.b_spec, left, right,
                                   task_.k, support));
      }
    }
    return paths;
  }

 private:
  static void Widen(const PanelRange& by, PanelRange* range) {
    range->max_bits = std::max(range->max_bits, by.max_bits);
    range->min_bits_minus_1 = std::min(range->min_bits_minus_1, by.min_bits_minus_1);
  }

  const MatMul& kernel_;
  PackedOperand left_, right_;
  std::vector<float> c_;
  MatMulTask task_;
};

inline const char* PathName(AccumulationPath path) {
  const char* names[] = {"exact", "nearest",  "nearest double", "nearest odd",
                         "fma",   "truncate", "stochastic"};
  return names[static_cast<int>(path)];
}

// One instruction set's kernels, if this CPU runs them.
struct IsaUnderTest {
  const char* name;
  Isa isa;
  PathSupport support;
};

inline std::ostream& operator<<(std::ostream& out, const IsaUnderTest& isa) {
  return out << isa.name;
}

const IsaUnderTest kIsas[] = {{"portable", Isa::kPortable, {false, true, true}},
                              {"avx2", Isa::kAvx2, {true, true, true}},
                              {"avx512", Isa::kAvx512, {true, true, true}}};

inline bool ChooseKernel(const IsaUnderTest& isa, MatMul* kernel) {
  setenv("TF_LOWPREC_ISA", isa.name, /*overwrite=*/1);
  const bool runs = ChooseIsa() == isa.isa;
  if (runs) *kernel = ChooseMatMul();
  unsetenv("TF_LOWPREC_ISA");
  return runs;
}

}  // namespace tf_lowprec

#endif  // TF_LOWPREC_TESTS_CC_MATMUL_PROBLEM_H_
