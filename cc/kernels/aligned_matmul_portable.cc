#include "cc/kernels/aligned_matmul_loops.h"

namespace tf_lowprec {
AlignedMatMul AlignedMatMulPortable() {
  return {portable::PackA, portable::PackB, portable::Multiply};
}
}  // namespace tf_lowprec
