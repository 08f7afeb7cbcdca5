#define LOWPREC_ISA avx2
#include "cc/kernels/adacomp_loops.h"

namespace tf_lowprec {
AdaCompLoops AdaCompAvx2() { return avx2::kAdaCompLoops; }
}  // namespace tf_lowprec
