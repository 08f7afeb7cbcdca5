// The exact product of two fixed-point matrices of up to 16 bits, outside TensorFlow.
//
// Values k * 2^-FL are multiplied as 16-bit integers. One operand is split into its high byte and
// its low byte, so that a pair of products a0 b0 + a1 b1 (one pmaddwd) stays below 2^24 and 128
// pairs fit a 32-bit accumulator; every 256 terms go to 64 bits. All of it is integer arithmetic:
// exact, in any order.
#ifndef TF_LOWPREC_CC_KERNELS_WIDE_MATMUL_H_
#define TF_LOWPREC_CC_KERNELS_WIDE_MATMUL_H_

#include <cstdint>

namespace tf_lowprec {

struct WideMatMulTask {
  const float* a = nullptr;  // [m, k], or [k, m] if transpose_a
  const float* b = nullptr;  // [k, n], or [n, k] if transpose_b
  double* c = nullptr;       // [m, n]
  int64_t m = 0, k = 0, n = 0;
  bool transpose_a = false, transpose_b = false;
  int a_fractional_bits = 0, b_fractional_bits = 0;
  // From the caller: PackedBytes(m, k) bytes, and one flag for each row of a.
  void* packed_a = nullptr;
  uint8_t* a_has_nan = nullptr;
};

// One instruction set's functions. First pack all rows of a, then multiply; both work on a range
// of units that threads may share out.
struct WideMatMul {
  int rows;     // rows of a in one unit of packing
  int columns;  // columns of c in one unit of multiplication
  void (*pack)(const WideMatMulTask& task, int64_t begin, int64_t end);
  void (*multiply)(const WideMatMulTask& task, int64_t begin, int64_t end);

  int64_t PackUnits(int64_t m) const { return (m + rows - 1) / rows; }
  int64_t MultiplyUnits(int64_t n) const { return (n + columns - 1) / columns; }
  int64_t PackedBytes(int64_t m, int64_t k) const {
    return PackUnits(m) * rows * ((k + 1) / 2) * 4;
  }
};

// The same for `batches` matrices one after the other, on a CUDA stream (a cudaStream_t) and device
// memory; in the library if it was built with nvcc. Needs neither packed_a nor a_has_nan. Returns
// why it could not start, or nullptr.
const char* LaunchWideMatMul(const WideMatMulTask& task, int64_t batches, void* stream);

// For the fastest instruction set that this CPU runs (TF_LOWPREC_ISA as in cpu_features.h).
WideMatMul ChooseWideMatMul();

}  // namespace tf_lowprec

#endif  // TF_LOWPREC_CC_KERNELS_WIDE_MATMUL_H_
