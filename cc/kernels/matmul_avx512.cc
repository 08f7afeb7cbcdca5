#define LOWPREC_ISA avx512
#include "cc/kernels/matmul_loops.h"

namespace tf_lowprec {

void QuantizeAvx512(const QuantizeTask&, int64_t, int64_t);

MatMul MatMulAvx512() {
  return {avx512::kRows, avx512::kColumns,
          [](const PackTask& task, int64_t begin, int64_t end) {
            avx512::Pack(task, begin, end, QuantizeAvx512);
          },
          avx512::Multiply, avx512::WantsBounds};
}

}  // namespace tf_lowprec
