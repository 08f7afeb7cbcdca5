#define LOWPREC_ISA avx512
#include "cc/kernels/aligned_matmul_loops.h"

namespace tf_lowprec {
AlignedMatMul AlignedMatMulAvx512() { return {avx512::PackA, avx512::PackB, avx512::Multiply}; }
}  // namespace tf_lowprec
