#include "cc/kernels/mx_quantize.h"

#include <vector>

#include "cc/kernels/cpu_features.h"

namespace tf_lowprec {

void QuantizeMxPortable(const MxTask&, const MxRoom&, int64_t, int64_t);
#if defined(__x86_64__)
void QuantizeMxAvx2(const MxTask&, const MxRoom&, int64_t, int64_t);
void QuantizeMxAvx512(const MxTask&, const MxRoom&, int64_t, int64_t);
#endif

QuantizeMxFn ChooseQuantizeMx() {
  switch (ChooseIsa()) {
#if defined(__x86_64__)
    case Isa::kAvx512:
      return QuantizeMxAvx512;
    case Isa::kAvx2:
      return QuantizeMxAvx2;
#endif
    default:
      return QuantizeMxPortable;
  }
}

void QuantizeMx(QuantizeMxFn quantize, const MxTask& task, int64_t begin, int64_t end) {
  const size_t size = static_cast<size_t>(task.inner);
  std::vector<uint32_t> largest(size);
  std::vector<float> scale(size), inverse(size);
  quantize(task, {largest.data(), scale.data(), inverse.data()}, begin, end);
}

}  // namespace tf_lowprec
