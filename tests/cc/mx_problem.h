// QuantizeMx, for the tests: formats, shapes and inputs.
#ifndef TF_LOWPREC_TESTS_CC_MX_PROBLEM_H_
#define TF_LOWPREC_TESTS_CC_MX_PROBLEM_H_

#include <cmath>
#include <cstdint>
#include <ostream>
#include <random>
#include <type_traits>
#include <vector>

#include "cc/kernels/mx_quantize.h"

namespace tf_lowprec {

inline std::ostream& operator<<(std::ostream& out, const MxTask& task) {
  return out << "format (" << task.element.exponent_bits << ", " << task.element.mantissa_bits
             << "), rounding " << task.element.rounding << ", [" << task.outer << ", "
             << task.length << ", " << task.inner << "], blocks of " << task.block;
}

namespace mx {

inline MxTask Task(int exponent_bits, int mantissa_bits, Specials specials,
                   bool subnormals = true) {
  MxTask task;
  task.element.exponent_bits = exponent_bits;
  task.element.mantissa_bits = mantissa_bits;
  task.element.specials = static_cast<int>(specials);
  task.element.subnormals = subnormals;
  task.element.seed[0] = 0xDEADBEEF;
  task.element.seed[1] = 5;
  task.element.stream = (uint64_t{9} << 32) + 20;
  return task;
}

// Numbers around 1; every seventh run of 20 holds what is rare: any bit pattern, zeros.
template <typename T>
std::vector<T> Inputs(int64_t n) {
  std::mt19937_64 random(7);
  std::normal_distribution<double> normal(0, 2);
  std::vector<T> x(n);
  for (int64_t i = 0; i < n; ++i) {
    const int64_t run = i / 20 % 21;
    x[i] = run == 7    ? FromBits<T>(static_cast<typename Carrier<T>::UInt>(random()))
           : run == 14 ? static_cast<T>(std::ldexp(normal(random), -140))
           : run == 20 ? 0
                       : static_cast<T>(normal(random));
  }
  return x;
}

// All elements and roundings: f(task).
template <typename F>
void ForEachFormat(const F& f) {
  for (MxTask task :
       {Task(2, 1, Specials::kFinite), Task(2, 3, Specials::kFinite), Task(3, 2, Specials::kFinite),
        Task(4, 3, Specials::kFn), Task(5, 2, Specials::kIeee), Task(5, 10, Specials::kIeee),
        Task(5, 2, Specials::kIeee, false), Task(4, 2, Specials::kDlfloat)}) {
    for (task.element.rounding = 0; task.element.rounding < 4; ++task.element.rounding) f(task);
  }
}

// Blocks that do not divide the axis, longer than it, of one element; other axes behind it.
template <typename F>
void ForEachShape(MxTask task, const F& f) {
  for (task.block = 1; task.block <= 125; task.block = 2 * task.block + task.block / 2 + 1) {
    for (const int64_t inner : {1, 2, 37, 300}) {
      for (const int64_t length : {1, 31, 65}) {
        task.outer = 3;
        task.length = length;
        task.inner = inner;
        f(task);
      }
    }
  }
}

template <typename T>
void Read(const T* x, MxTask* task) {
  if constexpr (std::is_same_v<T, float>) {
    task->element.x32 = x;
  } else {
    task->element.x64 = x;
  }
}

// What the CPU gives.
struct MxBlocks {
  std::vector<float> y;
  std::vector<uint8_t> scales;
};
template <typename T>
MxBlocks Quantize(MxTask task, const std::vector<T>& x) {
  MxBlocks out;
  out.y.resize(x.size());
  out.scales.resize(task.outer * task.Blocks() * task.inner);
  Read(x.data(), &task);
  task.element.y = out.y.data();
  task.scales = out.scales.data();
  QuantizeMx(ChooseQuantizeMx(), task, 0, task.outer * task.Blocks());
  return out;
}

}  // namespace mx
}  // namespace tf_lowprec

#endif  // TF_LOWPREC_TESTS_CC_MX_PROBLEM_H_
