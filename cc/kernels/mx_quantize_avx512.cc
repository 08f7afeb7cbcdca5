#define LOWPREC_ISA avx512
#include "cc/kernels/mx_quantize_loops.h"

namespace tf_lowprec {
void QuantizeMxAvx512(const MxTask& task, const MxRoom& room, int64_t begin, int64_t end) {
  avx512::QuantizeMx(task, room, begin, end);
}
}  // namespace tf_lowprec
