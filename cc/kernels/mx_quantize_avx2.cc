#define LOWPREC_ISA avx2
#include "cc/kernels/mx_quantize_loops.h"

namespace tf_lowprec {
void QuantizeMxAvx2(const MxTask& task, const MxRoom& room, int64_t begin, int64_t end) {
  avx2::QuantizeMx(task, room, begin, end);
}
}  // namespace tf_lowprec
