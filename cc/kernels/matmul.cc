#include "cc/kernels/matmul.h"

#include "cc/kernels/cpu_features.h"

namespace tf_lowprec {

MatMul MatMulPortable();
#if defined(__x86_64__)
MatMul MatMulAvx2();
MatMul MatMulAvx512();
#endif

MatMul ChooseMatMul() {
  switch (ChooseIsa()) {
#if defined(__x86_64__)
    case Isa::kAvx512:
      return MatMulAvx512();
    case Isa::kAvx2:
      return MatMulAvx2();
#endif
    default:
      return MatMulPortable();
  }
}

}  // namespace tf_lowprec
