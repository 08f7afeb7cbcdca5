#include "cc/kernels/wide_matmul.h"

#include "cc/kernels/cpu_features.h"

namespace tf_lowprec {

WideMatMul WideMatMulPortable();
#if defined(__x86_64__)
WideMatMul WideMatMulAvx2();
WideMatMul WideMatMulAvx512();
#endif

WideMatMul ChooseWideMatMul() {
  switch (ChooseIsa()) {
#if defined(__x86_64__)
    case Isa::kAvx512:
      return WideMatMulAvx512();
    case Isa::kAvx2:
      return WideMatMulAvx2();
#endif
    default:
      return WideMatMulPortable();
  }
}

}  // namespace tf_lowprec
