#define LOWPREC_ISA avx512
#include "cc/kernels/quantize_loops.h"

namespace tf_lowprec {
void QuantizeAvx512(const QuantizeTask& task, int64_t begin, int64_t end) {
  avx512::Quantize(task, begin, end);
}
}  // namespace tf_lowprec
