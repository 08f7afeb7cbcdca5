#define LOWPREC_ISA avx2
#include "cc/kernels/matmul_loops.h"

namespace tf_lowprec {

void QuantizeAvx2(const QuantizeTask&, int64_t, int64_t);

MatMul MatMulAvx2() {
  return {avx2::kRows, avx2::kColumns,
          [](const PackTask& task, int64_t begin, int64_t end) {
            avx2::Pack(task, begin, end, QuantizeAvx2);
          },
          avx2::Multiply, avx2::WantsBounds};
}

}  // namespace tf_lowprec
