#define LOWPREC_ISA portable
#include "cc/kernels/quantize_loops.h"

namespace tf_lowprec {
void QuantizePortable(const QuantizeTask& task, int64_t begin, int64_t end) {
  portable::Quantize(task, begin, end);
}
}  // namespace tf_lowprec
