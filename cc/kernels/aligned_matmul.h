// Products of matrices added up as tensor cores do (cc/numerics/aligned.h), outside TensorFlow:
// what the op's kernel calls. Operands are packed with the exponent of every element beside it;
// eight-bit operands, and others whose products and sums a float holds, take a vector loop, the
// rest integers.
#ifndef TF_LOWPREC_CC_KERNELS_ALIGNED_MATMUL_H_
#define TF_LOWPREC_CC_KERNELS_ALIGNED_MATMUL_H_

#include <cstdint>

#include "cc/numerics/macros.h"

namespace tf_lowprec {

// What an operand's format says: exponents of up to 5 bits and few mantissa bits are fast.
struct AlignedOperand {
  int exponent_bits = 8, mantissa_bits = 23, min_exponent = -126;
};

// Plain data, shared with every instruction set's copy of the loops.
struct AlignedMatMulTask {
  const float* a = nullptr;  // [m, k], or [k, m] if transpose_a
  const float* b = nullptr;  // [k, n], or [n, k] if transpose_b
  float* c = nullptr;        // [m, n]
  int64_t m = 0, n = 0, k = 0;
  bool transpose_a = false, transpose_b = false;
  AlignedOperand a_format, b_format;
  int64_t group = 32;      // consecutive k that are aligned together
  int fraction_bits = 13;  // of a term
  // Of the sum after a group.
  int exponent_bits = 8, mantissa_bits = 13;
  bool nearest = false;
  int64_t promote = 0;  // terms after which the sum is added to a float32; 0: never

  // Filled by the pack functions. Lanes are columns of b, kLanes to a panel.
  float* packed_a = nullptr;        // [m, k]
  int8_t* a_exponents = nullptr;    // likewise
  uint8_t* a_is_special = nullptr;  // [m]: whether a row holds NaN or an infinity
  float* packed_b = nullptr;        // [panels, k, kLanes]
  int8_t* b_exponents = nullptr;
  uint8_t* b_is_special = nullptr;  // [panels]

  static constexpr int kLanes = 32;
  int64_t Panels() const { return (n + kLanes - 1) / kLanes; }

  // Whether the vector loop has every bit right: exponents fit a byte with room for a sum of two,
  // products are exact in float32, and a group's sum is an integer below 2^24.
  bool IsFast() const {
    return exponent_bits == 8 && !nearest && a_format.exponent_bits <= 5 &&
           b_format.exponent_bits <= 5 &&
           a_format.mantissa_bits + b_format.mantissa_bits + 2 <= 24 && fraction_bits <= 20 &&
           (group + 1) << (fraction_bits + 2) <= int64_t{1} << 24;
  }
};

// One instruction set's functions, over ranges that threads may share out: rows of a, panels of b,
// and tiles of kTileRows rows by one panel.
struct AlignedMatMul {
  void (*pack_a)(const AlignedMatMulTask& task, int64_t begin, int64_t end);
  void (*pack_b)(const AlignedMatMulTask& task, int64_t begin, int64_t end);
  void (*multiply)(const AlignedMatMulTask& task, int64_t begin, int64_t end);

  static constexpr int64_t kTileRows = 64;
  static int64_t Tiles(const AlignedMatMulTask& task) {
    return (task.m + kTileRows - 1) / kTileRows * task.Panels();
  }
};

// For the fastest instruction set that this CPU runs (TF_LOWPREC_ISA as in cpu_features.h).
AlignedMatMul ChooseAlignedMatMul();

// `batches` products on a CUDA stream (a cudaStream_t), on device memory that is not packed; in the
// library if it was built with nvcc. Returns why it could not start, or nullptr.
const char* LaunchAlignedMatMul(const AlignedMatMulTask& task, int64_t batches, void* stream);

}  // namespace tf_lowprec

#endif  // TF_LOWPREC_CC_KERNELS_ALIGNED_MATMUL_H_
