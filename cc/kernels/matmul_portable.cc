#include "cc/kernels/matmul_loops.h"

namespace tf_lowprec {

void QuantizePortable(const QuantizeTask&, int64_t, int64_t);

MatMul MatMulPortable() {
  return {portable::kRows, portable::kColumns,
          [](const PackTask& task, int64_t begin, int64_t end) {
            portable::Pack(task, begin, end, QuantizePortable);
          },
          portable::Multiply, portable::WantsBounds};
}

}  // namespace tf_lowprec
