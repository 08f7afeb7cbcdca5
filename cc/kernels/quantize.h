// Quantize on a range of elements, outside TensorFlow: what the op's kernel calls, once per shard.
#ifndef TF_LOWPREC_CC_KERNELS_QUANTIZE_H_
#define TF_LOWPREC_CC_KERNELS_QUANTIZE_H_

#include <cstdint>

#include "cc/numerics/format.h"
#include "cc/numerics/philox.h"

namespace tf_lowprec {

// Plain data shared with every instruction set's copy of the loops (so: no type of an ISA's
// inline namespace in here).
struct QuantizeTask {
  // Exactly one input is set.
  const float* x32 = nullptr;
  const double* x64 = nullptr;
  float* y = nullptr;
  bool is_fixed = false;
  int exponent_bits = 0, mantissa_bits = 0, specials = 0;
  bool saturate = false, subnormals = true;
  int integer_bits = 0, fractional_bits = 0;
  int rounding = 0;
  uint32_t seed[2] = {0, 0};
  uint64_t stream = 0;
  int64_t index = 0;                     // of x[0] in its tensor: says which random words are its
  const int32_t* random_bits = nullptr;  // r of each element, instead of Philox
};

// Shards start and end on multiples of this (the last may end anywhere).
constexpr int64_t kQuantizeGrain = 1024;

using QuantizeFn = void (*)(const QuantizeTask& task, int64_t begin, int64_t end);

// The fastest copy that this CPU runs, or the one that TF_LOWPREC_ISA names (portable, avx2,
// avx512: for tests).
QuantizeFn ChooseQuantize();

// The same on a CUDA stream (a cudaStream_t), on device memory; in the library if it was built with
// nvcc. random_bits are taken modulo 2^24. Return why they could not start, or nullptr.
const char* LaunchQuantize(const QuantizeTask& task, int64_t n, void* stream);
const char* LaunchQuantizeGrad(const float* dy, const float* x, float* dx, int64_t n, float lowest,
                               float highest, void* stream);
const char* LaunchQuantizeGrad(const float* dy, const double* x, double* dx, int64_t n,
                               double lowest, double highest, void* stream);

}  // namespace tf_lowprec

#endif  // TF_LOWPREC_CC_KERNELS_QUANTIZE_H_
