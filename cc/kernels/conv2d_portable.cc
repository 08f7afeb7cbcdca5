#include "cc/kernels/conv2d_loops.h"

namespace tf_lowprec {

void QuantizePortable(const QuantizeTask&, int64_t, int64_t);

Conv2D Conv2DPortable() {
  return {portable::kRows,
          portable::kColumns,
          sizeof(portable::TileTask),
          QuantizePortable,
          [](const ConvBlock& block, const ConvPlan& plan, int64_t first_image, int64_t begin,
             int64_t end, float* out, PanelRange* range) {
            portable::ConvPad(block, plan, first_image, begin, end, out, range, QuantizePortable);
          },
          [](const ConvBlock& block, int64_t begin, int64_t end) {
            portable::ConvPackB(block, begin, end, QuantizePortable);
          },
          portable::MaySkip,
          portable::ConvMultiply};
}

}  // namespace tf_lowprec
