// Products of matrices with narrow accumulators, outside TensorFlow: what the op's kernel calls.
//
// Both operands are packed into panels, rounded to their formats on the way; then tiles of the
// output, kRows rows by kColumns columns, are accumulated with k ascending in every element. A tile
// is computed by the cheapest arithmetic that gives the right bits for its operands
// (accumulation_path.h), so that neither the tiling nor the instruction set shows in the result.
#ifndef TF_LOWPREC_CC_KERNELS_MATMUL_H_
#define TF_LOWPREC_CC_KERNELS_MATMUL_H_

#include <cstdint>

#include "cc/kernels/quantize.h"

namespace tf_lowprec {

// Plain data, shared with every instruction set's copy of the loops (so: no type of an ISA's inline
// namespace in here).

// Of the values in a packed panel, as bits: the largest magnitude, and the smallest but for zeros,
// minus 1 (so that zeros wrap to the largest).
struct PanelRange {
  uint32_t max_bits = 0;
  uint32_t min_bits_minus_1 = 0xFFFFFFFFu;
};

// Of a packed panel for each k: all |x| < 2^exponent, and all x are multiples of 2^quantum. Zeros
// bound nothing.
struct StepBounds {
  int16_t* exponent = nullptr;
  int16_t* quantum = nullptr;

  LOWPREC_HD StepBounds From(int64_t k) const { return {exponent + k, quantum + k}; }
};
// Those of one of many panels, which follow each other in memory.
LOWPREC_HD StepBounds BoundsOfPanel(int16_t* all, int64_t panel, int64_t k) {
  if (all == nullptr) return {};
  return {all + 2 * panel * k, all + (2 * panel + 1) * k};
}

// What an operand's format says about its values.
struct OperandSpec {
  int bits = 24;           // of the significand
  int min_quantum = -149;  // values are multiples of 2^min_quantum
};

struct AccumulatorSpec {
  int exponent_bits = 8, mantissa_bits = 23, specials = 0;
  bool saturate = false, subnormals = true;
  int rounding = 0;
  int64_t chunk = 0;  // 0: none
};

// A matrix to be packed. A panel holds, for each k, the elements of `width` lanes side by side;
// lanes are rows of the left operand or columns of the right one. Lanes beyond the last are 0.
struct PackTask {
  const float* x = nullptr;  // [lanes, k], or [k, lanes] if lanes_last
  int64_t lanes = 0, k = 0;
  bool lanes_last = false;
  int width = 0;                // of a panel
  float* packed = nullptr;      // Panels() * k * width
  PanelRange* range = nullptr;  // of each panel: start as PanelRange{}
  int16_t* bounds = nullptr;    // of all panels, if asked for: 2 * Panels() * k
  OperandSpec spec;             // for the bounds
  // Roundings, one after the other; x32, y and index of these are set here.
  const QuantizeTask* stages = nullptr;
  int num_stages = 0;
  int64_t index = 0;  // of x[0] in its tensor, for the random numbers

  LOWPREC_HD int64_t Panels() const { return (lanes + width - 1) / width; }
};

struct MatMulTask {
  const float* a = nullptr;  // packed
  const float* b = nullptr;
  const PanelRange* a_range = nullptr;
  const PanelRange* b_range = nullptr;
  int16_t* a_bounds = nullptr;  // or none: if wants_bounds, it is faster with them
  int16_t* b_bounds = nullptr;
  float* c = nullptr;  // [m, n]
  int64_t m = 0, n = 0, k = 0;
  AccumulatorSpec accumulator;
  OperandSpec a_spec, b_spec;
  // Stochastic accumulators: the seed, or r itself.
  uint32_t seed[2] = {0, 0};
  uint64_t stream = 0;
  int64_t index = 0;                     // of c[0] in the whole output
  const int32_t* random_bits = nullptr;  // [m, n, Steps()]

  LOWPREC_HD int64_t Chunks() const {
    return accumulator.chunk > 0 ? (k + accumulator.chunk - 1) / accumulator.chunk : 0;
  }
  // Roundings of an output element: one for each k and one for each chunk's sum.
  LOWPREC_HD int64_t Steps() const { return k + Chunks(); }
};

// One instruction set's functions. `pack` works on a range of PackUnits, `multiply` on one of
// tiles; threads may share them out.
struct MatMul {
  int rows, columns;  // of a tile
  void (*pack)(const PackTask& task, int64_t begin, int64_t end);
  void (*multiply)(const MatMulTask& task, int64_t begin, int64_t end);
  bool (*wants_bounds)(const MatMulTask& task);

  static LOWPREC_HD int64_t PackUnits(const PackTask& task) {
    return task.lanes_last ? (task.k + kPackRows - 1) / kPackRows : task.Panels();
  }
  LOWPREC_HD int64_t Tiles(int64_t m, int64_t n) const {
    return ((m + rows - 1) / rows) * ((n + columns - 1) / columns);
  }
  static constexpr int64_t kPackRows = 16;  // rows of k in one unit
};

// What a CUDA kernel learns of its operands, for the next: in device memory.
struct GpuGemmScratch {
  PanelRange a, b;  // of the whole operands
  int path;         // an AccumulationPath
  int may_underflow;
};

// What the CUDA kernels of narrow accumulators take, in device memory. Operands are not packed.
struct GpuGemmTask {
  const float* a = nullptr;
  const float* b = nullptr;
  float* c = nullptr;
  AccumulatorSpec accumulator;
  uint32_t seed[2] = {0, 0};
  uint64_t stream = 0;
  int64_t index = 0;                     // of c[0] in the whole output
  const int32_t* random_bits = nullptr;  // modulo 2^16
  OperandSpec a_spec, b_spec;
  GpuGemmScratch* scratch = nullptr;  // for this product alone; without it, it is computed slowly
};

// The same product as MatMul's on a CUDA stream (a cudaStream_t): c[batch] = op(a[batch])
// op(b[batch]). In the library if it was built with nvcc. Returns why it could not start, or
// nullptr.
struct GpuMatMulTask : GpuGemmTask {  // a: [m, k], or [k, m] if transpose_a; b likewise
  int64_t m = 0, n = 0, k = 0, batches = 1;
  int64_t a_step = 0, b_step = 0;  // elements from one batch to the next
  bool transpose_a = false, transpose_b = false;
};
const char* LaunchMatMul(const GpuMatMulTask& task, void* stream);

// For the fastest instruction set that this CPU runs (TF_LOWPREC_ISA as in cpu_features.h).
MatMul ChooseMatMul();

}  // namespace tf_lowprec

#endif  // TF_LOWPREC_CC_KERNELS_MATMUL_H_
