#define LOWPREC_ISA avx2
#include "cc/kernels/aligned_matmul_loops.h"

namespace tf_lowprec {
AlignedMatMul AlignedMatMulAvx2() { return {avx2::PackA, avx2::PackB, avx2::Multiply}; }
}  // namespace tf_lowprec
