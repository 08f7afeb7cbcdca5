#include "cc/kernels/aligned_matmul.h"

#include "cc/kernels/cpu_features.h"

namespace tf_lowprec {

AlignedMatMul AlignedMatMulPortable();
#if defined(__x86_64__)
AlignedMatMul AlignedMatMulAvx2();
AlignedMatMul AlignedMatMulAvx512();
#endif

AlignedMatMul ChooseAlignedMatMul() {
  switch (ChooseIsa()) {
#if defined(__x86_64__)
    case Isa::kAvx512:
      return AlignedMatMulAvx512();
    case Isa::kAvx2:
      return AlignedMatMulAvx2();
#endif
    default:
      return AlignedMatMulPortable();
  }
}

}  // namespace tf_lowprec
