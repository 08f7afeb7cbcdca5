#define LOWPREC_ISA avx512
#include "cc/kernels/conv2d_loops.h"

namespace tf_lowprec {

void QuantizeAvx512(const QuantizeTask&, int64_t, int64_t);

Conv2D Conv2DAvx512() {
  return {avx512::kRows,
          avx512::kColumns,
          sizeof(avx512::TileTask),
          QuantizeAvx512,
          [](const ConvBlock& block, const ConvPlan& plan, int64_t first_image, int64_t begin,
             int64_t end, float* out, PanelRange* range) {
            avx512::ConvPad(block, plan, first_image, begin, end, out, range, QuantizeAvx512);
          },
          [](const ConvBlock& block, int64_t begin, int64_t end) {
            avx512::ConvPackB(block, begin, end, QuantizeAvx512);
          },
          avx512::MaySkip,
          avx512::ConvMultiply};
}

}  // namespace tf_lowprec
