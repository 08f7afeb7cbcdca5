#include "cc/kernels/conv2d.h"

#include <algorithm>

#include "cc/kernels/cpu_features.h"

namespace tf_lowprec {

Conv2D Conv2DPortable();
#if defined(__x86_64__)
Conv2D Conv2DAvx2();
Conv2D Conv2DAvx512();
#endif

Conv2D ChooseConv2D() {
  switch (ChooseIsa()) {
#if defined(__x86_64__)
    case Isa::kAvx512:
      return Conv2DAvx512();
    case Isa::kAvx2:
      return Conv2DAvx2();
#endif
    default:
      return Conv2DPortable();
  }
}

void ConvSource(const ConvProduct& product, int64_t begin, int64_t end, int64_t* first,
                int64_t* last) {
  const ConvShape& s = product.shape;
  const int64_t reach = (s.filter_height - 1) * s.dilation_height;
  // Whole rows of the images, from the highest that the first row's window touches to the lowest
  // that the last one's does.
  const bool backward = product.pass == ConvPass::kBackward;
  const int64_t width = backward ? s.in_width : s.out_width;
  const int64_t height = backward ? s.in_height : s.out_height;
  const int64_t source_width = backward ? s.out_width : s.in_width;
  const int64_t source_height = backward ? s.out_height : s.in_height;
  const auto clamp = [&](int64_t h) { return std::min(std::max<int64_t>(h, 0), source_height); };
  const int64_t top = begin / width, bottom = (end - 1) / width;
  int64_t low, high;
  if (backward) {
    low = (top % height + s.pad_top - reach) / s.stride_height - 1;
    high = (bottom % height + s.pad_top) / s.stride_height + 1;
  } else {
    low = top % height * s.stride_height - s.pad_top;
    high = bottom % height * s.stride_height - s.pad_top + reach + 1;
  }
  *first = (top / height * source_height + clamp(low)) * source_width;
  *last = (bottom / height * source_height + clamp(high)) * source_width;
}

}  // namespace tf_lowprec
