// From a QuantizeMx task to the function that is compiled for its type and rounding, on either
// device.
#ifndef TF_LOWPREC_CC_KERNELS_MX_ROUNDING_H_
#define TF_LOWPREC_CC_KERNELS_MX_ROUNDING_H_

#include <type_traits>

#include "cc/kernels/mx_quantize.h"
#include "cc/numerics/mx.h"

LOWPREC_BEGIN_NAMESPACE

template <Rounding kValue>
using RoundingConstant = std::integral_constant<Rounding, kValue>;

// f(x, how its elements are rounded, the rounding, whether the format has a gap at zero), the last
// two as constants.
template <typename F>
void WithMxRounding(const MxTask& task, const F& f) {
  const QuantizeTask& q = task.element;
  const FloatFormat format = {q.exponent_bits, q.mantissa_bits, static_cast<Specials>(q.specials),
                              q.saturate, q.subnormals};
  const Rounding rounding = static_cast<Rounding>(q.rounding);
  const auto with_rounding = [&](auto constant) {
    const auto with_gap = [&](auto gap) {
      if (q.x32 != nullptr) {
        f(q.x32, MakeMxElement<float>(format, rounding), constant, gap);
      } else {
        f(q.x64, MakeMxElement<double>(format, rounding), constant, gap);
      }
    };
    HasGapAtZero(format) ? with_gap(std::true_type()) : with_gap(std::false_type());
  };
  switch (rounding) {
    case Rounding::kNearestEven:
      return with_rounding(RoundingConstant<Rounding::kNearestEven>());
    case Rounding::kNearestUp:
      return with_rounding(RoundingConstant<Rounding::kNearestUp>());
    case Rounding::kStochastic:
      return with_rounding(RoundingConstant<Rounding::kStochastic>());
    case Rounding::kTowardZero:
      return with_rounding(RoundingConstant<Rounding::kTowardZero>());
  }
}

LOWPREC_END_NAMESPACE

#endif  // TF_LOWPREC_CC_KERNELS_MX_ROUNDING_H_
