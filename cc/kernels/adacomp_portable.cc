#define LOWPREC_ISA portable
#include "cc/kernels/adacomp_loops.h"

namespace tf_lowprec {
AdaCompLoops AdaCompPortable() { return {portable::AdaCompSelect, portable::AdaCompMeasure}; }
}  // namespace tf_lowprec
