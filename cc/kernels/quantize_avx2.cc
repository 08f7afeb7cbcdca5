#define LOWPREC_ISA avx2
#include "cc/kernels/quantize_loops.h"

namespace tf_lowprec {
void QuantizeAvx2(const QuantizeTask& task, int64_t begin, int64_t end) {
  avx2::Quantize(task, begin, end);
}
}  // namespace tf_lowprec
