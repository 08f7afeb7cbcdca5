#define LOWPREC_ISA avx2
#include "cc/kernels/wide_matmul_loops.h"

namespace tf_lowprec {
WideMatMul WideMatMulAvx2() { return {avx2::kRows, avx2::kColumns, avx2::PackA, avx2::Multiply}; }
}  // namespace tf_lowprec
