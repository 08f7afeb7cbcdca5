#include "cc/kernels/mx_quantize_loops.h"

namespace tf_lowprec {
void QuantizeMxPortable(const MxTask& task, const MxRoom& room, int64_t begin, int64_t end) {
  portable::QuantizeMx(task, room, begin, end);
}
}  // namespace tf_lowprec
