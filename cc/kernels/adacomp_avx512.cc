#define LOWPREC_ISA avx512
#include "cc/kernels/adacomp_loops.h"

namespace tf_lowprec {
AdaCompLoops AdaCompAvx512() { return avx512::kAdaCompLoops; }
}  // namespace tf_lowprec
