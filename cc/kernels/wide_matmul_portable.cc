#define LOWPREC_ISA portable
#include "cc/kernels/wide_matmul_loops.h"

namespace tf_lowprec {
WideMatMul WideMatMulPortable() {
  return {portable::kRows, portable::kColumns, portable::PackA, portable::Multiply};
}
}  // namespace tf_lowprec
