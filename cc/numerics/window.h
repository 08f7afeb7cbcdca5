// A filter that slides along one axis of an image: what shape functions and kernels both need.
#ifndef TF_LOWPREC_CC_NUMERICS_WINDOW_H_
#define TF_LOWPREC_CC_NUMERICS_WINDOW_H_

#include <cstdint>

#include "cc/numerics/macros.h"

LOWPREC_BEGIN_NAMESPACE

struct WindowAxis {
  int64_t in, filter, stride, dilation;
  bool same;              // as many outputs as strides begin in the image; else `before`, `after`
  int64_t before, after;  // explicit padding; 0 for VALID

  LOWPREC_HD int64_t Extent() const { return (filter - 1) * dilation + 1; }
  LOWPREC_HD int64_t Outputs() const {
    if (same) return (in + stride - 1) / stride;
    const int64_t room = before + in + after - Extent();
    return room < 0 ? 0 : room / stride + 1;
  }
  // Padding before the image.
  LOWPREC_HD int64_t Before() const {
    if (!same) return before;
    const int64_t padding = (Outputs() - 1) * stride + Extent() - in;
    return padding > 0 ? padding / 2 : 0;
  }
};

LOWPREC_END_NAMESPACE

#endif  // TF_LOWPREC_CC_NUMERICS_WINDOW_H_
