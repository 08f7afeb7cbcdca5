// The block formats of the OCP Microscaling (MX) specification: a block's shared scale, a power of
// two, and the rounding of its elements.
#ifndef TF_LOWPREC_CC_NUMERICS_MX_H_
#define TF_LOWPREC_CC_NUMERICS_MX_H_

#include <cstdint>

#include "cc/numerics/format.h"
#include "cc/numerics/rounding.h"

LOWPREC_BEGIN_NAMESPACE

// E8M0: a scale's exponent + 127.
constexpr int kMxScaleBias = 127;
constexpr uint8_t kMxNanScale = 255;

// How elements, of at most 5 exponent bits, are rounded: what is left of a number of T when the
// scale is taken out of it. Their largest value is 1 or more, so that a block whose largest number
// is subnormal in float32 has the smallest scale, however small that number is.
template <typename T>
struct MxElement {
  FloatRounder<T> rounder;
  int max_exponent;  // of the largest value
};

template <typename T>
LOWPREC_HD MxElement<T> MakeMxElement(FloatFormat format, Rounding rounding) {
  format.saturate = true;
  return {MakeFloatRounder<T>(format, rounding), FloatMaxExponent(format)};
}

// The exponent field of |x|: all that a block's scale depends on.
template <typename T>
LOWPREC_HD uint32_t ExponentField(T x) {
  constexpr int kSignBit = 8 * static_cast<int>(sizeof(T)) - 1;
  const auto magnitude = ToBits<T>(x) & ~(typename Carrier<T>::UInt{1} << kSignBit);
  return static_cast<uint32_t>(magnitude >> Carrier<T>::kMantissaBits);
}

// The scale 2^(floor(log2 max |x|) - max_exponent) of a block, from its largest exponent field.
// NaN if a number is NaN, infinite, or of 2^128 or more.
template <typename T>
LOWPREC_HD uint8_t MxScaleCode(uint32_t largest_field, int max_exponent) {
  const int largest = static_cast<int>(largest_field) - Carrier<T>::kBias;
  if (largest >= 128) return kMxNanScale;
  const int code = largest - max_exponent + kMxScaleBias;
  return static_cast<uint8_t>(code > 0 ? code : 0);
}

// A scale, which may be NaN, and what takes it out of a number.
struct MxScale {
  float scale, inverse;
};
LOWPREC_HD MxScale MakeMxScale(uint8_t code) {
  if (code == kMxNanScale) return {FromBits<float>(kCanonicalNan), 1.0f};
  const int exponent = code - kMxScaleBias;
  return {exponent < -126 ? 0x1p-127f : PowerOfTwo(exponent), PowerOfTwo(-exponent)};
}

// x rounded in a block of that scale. x * inverse is exact, but where it is below float32's normal
// numbers: that is so little of an element's smallest value that all roundings of it are alike.
// NaN is selected, since a product's NaN has other bits on a GPU.
template <Rounding kRounding, bool kGapAtZero, typename T>
LOWPREC_HD float RoundMx(T x, MxScale of, const FloatRounder<T>& element, uint32_t random) {
  const float y =
      RoundToFloat<kRounding, kGapAtZero, false>(x * static_cast<T>(of.inverse), element, random);
  return Select(of.scale == of.scale, y * of.scale, FromBits<float>(kCanonicalNan));
}

LOWPREC_END_NAMESPACE

#endif  // TF_LOWPREC_CC_NUMERICS_MX_H_
