#include "cc/kernels/quantize.h"

#include "cc/kernels/cpu_features.h"

namespace tf_lowprec {

void QuantizePortable(const QuantizeTask&, int64_t, int64_t);
#if defined(__x86_64__)
void QuantizeAvx2(const QuantizeTask&, int64_t, int64_t);
void QuantizeAvx512(const QuantizeTask&, int64_t, int64_t);
#endif

QuantizeFn ChooseQuantize() {
  switch (ChooseIsa()) {
#if defined(__x86_64__)
    case Isa::kAvx512:
      return QuantizeAvx512;
    case Isa::kAvx2:
      return QuantizeAvx2;
#endif
    default:
      return QuantizePortable;
  }
}

}  // namespace tf_lowprec
