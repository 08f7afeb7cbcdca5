#define LOWPREC_ISA avx2
#include "cc/kernels/conv2d_loops.h"

namespace tf_lowprec {

void QuantizeAvx2(const QuantizeTask&, int64_t, int64_t);

Conv2D Conv2DAvx2() {
  return {avx2::kRows,
          avx2::kColumns,
          sizeof(avx2::TileTask),
          QuantizeAvx2,
          [](const ConvBlock& block, const ConvPlan& plan, int64_t first_image, int64_t begin,
             int64_t end, float* out, PanelRange* range) {
            avx2::ConvPad(block, plan, first_image, begin, end, out, range, QuantizeAvx2);
          },
          [](const ConvBlock& block, int64_t begin, int64_t end) {
            avx2::ConvPackB(block, begin, end, QuantizeAvx2);
          },
          avx2::MaySkip,
          avx2::ConvMultiply};
}

}  // namespace tf_lowprec
