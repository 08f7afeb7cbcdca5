#define LOWPREC_ISA avx512
#include "cc/kernels/wide_matmul_loops.h"

namespace tf_lowprec {
WideMatMul WideMatMulAvx512() {
  return {avx512::kRows, avx512::kColumns, avx512::PackA, avx512::Multiply};
}
}  // namespace tf_lowprec
