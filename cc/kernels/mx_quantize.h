// QuantizeMx on a range of blocks, outside TensorFlow: what the op's kernel calls.
#ifndef TF_LOWPREC_CC_KERNELS_MX_QUANTIZE_H_
#define TF_LOWPREC_CC_KERNELS_MX_QUANTIZE_H_

#include <cstdint>

#include "cc/kernels/quantize.h"
#include "cc/numerics/macros.h"

namespace tf_lowprec {

// Plain data shared with every instruction set's copy of the loops.
struct MxTask {
  // x, of either type, and y; how elements, of at most 5 exponent bits, are rounded (they saturate
  // whatever it says); seed and stream.
  QuantizeTask element;
  uint8_t* scales = nullptr;  // [outer, Blocks(), inner]
  // x is [outer, length, inner], and blocks are runs of `block` along `length`; the last of them
  // may be shorter.
  int64_t outer = 1, length = 0, inner = 1, block = 32;

  LOWPREC_HD int64_t Blocks() const { return (length + block - 1) / block; }
};

// Blocks [begin, end) of outer * Blocks() (inner of them side by side each). room: task.inner
// elements of each kind.
struct MxRoom {
  uint32_t* largest;
  float* scale;
  float* inverse;
};
using QuantizeMxFn = void (*)(const MxTask& task, const MxRoom& room, int64_t begin, int64_t end);

// For the fastest instruction set that this CPU runs (TF_LOWPREC_ISA as in cpu_features.h).
QuantizeMxFn ChooseQuantizeMx();

// The same, with room of its own.
void QuantizeMx(QuantizeMxFn quantize, const MxTask& task, int64_t begin, int64_t end);

// The same of all blocks on a CUDA stream (a cudaStream_t), on device memory; in the library if it
// was built with nvcc. Returns why it could not start, or nullptr.
const char* LaunchQuantizeMx(const MxTask& task, void* stream);

}  // namespace tf_lowprec

#endif  // TF_LOWPREC_CC_KERNELS_MX_QUANTIZE_H_
