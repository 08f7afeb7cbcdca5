#define LOWPREC_ISA avx512
#include "cc/kernels/adacomp_loops.h"

namespace tf_lowprec {
AdaCompLoops AdaCompAvx512() { return {avx512::AdaCompSelect, avx512::AdaCompMeasure}; }
}  // namespace tf_lowprec
