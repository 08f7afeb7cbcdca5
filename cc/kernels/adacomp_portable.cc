#define LOWPREC_ISA portable
#include "cc/kernels/adacomp_loops.h"

namespace tf_lowprec {
AdaCompLoops AdaCompPortable() { return portable::kAdaCompLoops; }
}  // namespace tf_lowprec
