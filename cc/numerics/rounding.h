// The one place where a value is rounded: CPU kernels, CUDA kernels and the tests of the RTL all
// call RoundToFloat and RoundToFixed. Both return the correctly rounded value of x, rounded once.
//
// `random` is r of the stochastic mode, 0 <= r < 2^24: the magnitude (floats) or the two's
// complement value (fixed point), measured in units of the last place, becomes
// floor(value + r * 2^-24). Bits of x below 2^-24 units cannot change that floor, since r is an
// integer multiple of 2^-24, so they may be cut.
//
// Subnormal carriers need flush-to-zero and denormals-are-zero off (cc/kernels/float_mode.h).
#ifndef TF_LOWPREC_CC_NUMERICS_ROUNDING_H_
#define TF_LOWPREC_CC_NUMERICS_ROUNDING_H_

#include <cmath>

#include "cc/numerics/format.h"

LOWPREC_BEGIN_NAMESPACE

constexpr int kRandomBits = 24;

// Overloads rather than std:: templates, so that the compiler inlines one instruction each.
LOWPREC_HD float Floor(float x) { return floorf(x); }
LOWPREC_HD double Floor(double x) { return floor(x); }
LOWPREC_HD float Truncate(float x) { return truncf(x); }
LOWPREC_HD double Truncate(double x) { return trunc(x); }
LOWPREC_HD float NearestEven(float x) { return rintf(x); }
LOWPREC_HD double NearestEven(double x) { return rint(x); }

// condition ? yes : no as bit operations: the compiler turns it into a vector blend, where it would
// keep a branch for the operator, and then not vectorize the loop.
LOWPREC_HD float Select(bool condition, float yes, float no) {
  const uint32_t mask = 0u - static_cast<uint32_t>(condition);
  return FromBits<float>((ToBits<float>(yes) & mask) | (ToBits<float>(no) & ~mask));
}

// y to an integer. y is a float whose last bit is worth at most 1. With kRoundDown, the thread's
// rounding mode is toward minus infinity, which makes stochastic rounding cheap: a sum rounded down
// has the same floor as the exact sum, since integers are floats here.
template <Rounding kRounding, bool kRoundDown, typename T>
LOWPREC_HD T RoundToInteger(T y, uint32_t random) {
  if constexpr (kRounding == Rounding::kNearestEven) {
    return NearestEven(y);
  } else if constexpr (kRounding == Rounding::kNearestUp) {
    // y - floor(y) is exact except for tiny negative y, where it still compares right with 1/2.
    const T down = Floor(y);
    return down + (y - down >= static_cast<T>(0.5) ? static_cast<T>(1) : static_cast<T>(0));
  } else if constexpr (kRounding == Rounding::kStochastic && kRoundDown) {
    constexpr T kUnit = static_cast<T>(1) / (1 << kRandomBits);
    return Floor(y + static_cast<T>(static_cast<int32_t>(random)) * kUnit);
  } else if constexpr (kRounding == Rounding::kStochastic) {
    // floor(y + r 2^-24) with y = whole + part; |part| < 1 has y's sign and is exact.
    const T whole = Truncate(y);
    const T part = Floor((y - whole) * static_cast<T>(1 << kRandomBits));
    const int32_t sum = static_cast<int32_t>(part) + static_cast<int32_t>(random);
    return whole + static_cast<T>(sum >> kRandomBits);
  } else {
    return Truncate(y);
  }
}

// Whether |x| below `smallest`, in a format that has nothing between it and 0, goes up to it.
// |x| = significand * 2^e and smallest = min_significand * 2^(e + up), both as carriers of type T.
template <Rounding kRounding, typename T>
LOWPREC_HD bool RoundsUpToSmallest(uint64_t significand, uint64_t min_significand, int up,
                                   bool negative, uint32_t random) {
  if constexpr (kRounding == Rounding::kStochastic) {
    // |x| / smallest + r 2^-24 >= 1 as integers. The smallest value is a float32: without the bits
    // that a double has beyond it, both sides fit 64 bits. The right side being an integer, the
    // left may be cut to one.
    constexpr int kDrop = Carrier<T>::kMantissaBits - 23;
    constexpr int kLift = kDrop < kRandomBits ? kRandomBits - kDrop : 0;
    constexpr int kCut = kDrop < kRandomBits ? 0 : kDrop - kRandomBits;
    const int shift = up + kCut < 63 ? up + kCut : 63;
    const uint64_t need = (min_significand >> kDrop) * ((uint64_t{1} << kRandomBits) - random);
    return ((significand << kLift) >> shift) >= need;
  } else if constexpr (kRounding == Rounding::kTowardZero) {
    return false;
  } else {
    const int shift = up < 8 ? up : 8;  // from 2 on, |x| is under half of the smallest anyway
    const uint64_t twice = significand << 1;
    const uint64_t smallest = min_significand << shift;
    const bool tie_up = kRounding == Rounding::kNearestUp && !negative;
    return (twice > smallest) | (tie_up & (twice == smallest));
  }
}

// x rounded to a float format.
//   kGapAtZero:    the format has no subnormals.
//   kWideExponent: it may have 8 exponent bits, so that a float carrier has to be brought away from
//                  the ends of its range first. A double never has to.
//   kRoundDown:    as in RoundToInteger. All other arithmetic here is exact.
//   kFewMantissaBits: it has at most 22.
//
// With q the format's quantum at x, x / q is scaled exactly, since q is a power of two, and at most
// 2^(m+1): one rounding to an integer does it, and the product with q is a float32 again.
template <Rounding kRounding, bool kGapAtZero, bool kWideExponent = true, bool kRoundDown = false,
          bool kFewMantissaBits = false, typename T>
LOWPREC_HD float RoundToFloat(T x, const FloatRounder<T>& f, uint32_t random) {
  using C = Carrier<T>;
  using UInt = typename C::UInt;
  constexpr UInt kOne = 1;
  constexpr UInt kSignBit = kOne << (sizeof(T) * 8 - 1);
  constexpr UInt kTopField = static_cast<UInt>(2 * C::kBias) << C::kMantissaBits;  // of 2^bias
  const UInt bits = ToBits<T>(x);
  const UInt magnitude = bits & ~kSignBit;
  const UInt x_field = magnitude & C::kInf;
  UInt field = x_field > f.min_field ? x_field : f.min_field;

  constexpr bool kNearestEven = kRounding == Rounding::kNearestEven;
  constexpr bool kStochasticDown = kRounding == Rounding::kStochastic && kRoundDown;
  // Floats are rounded by magnitude, but NEAREST_UP looks at the sign.
  T y = kRounding == Rounding::kStochastic || kNearestEven ? FromBits<T>(magnitude) : x;
  constexpr bool kShift = kWideExponent && sizeof(T) == 4;
  constexpr UInt kStep = UInt{64} << C::kMantissaBits;
  const bool low = field < (UInt{128} << C::kMantissaBits);
  if constexpr (kShift) {
    y *= Select(low, 0x1p64f, 0x1p-64f);
    field += low ? kStep : UInt{0} - kStep;
  }
  T result;
  if constexpr ((kStochasticDown || kNearestEven) && kFewMantissaBits) {
    // Adding and subtracting 2^(kMantissaBits) quanta rounds to a multiple of the quantum.
    constexpr UInt kUp = static_cast<UInt>(C::kMantissaBits) << C::kMantissaBits;
    constexpr UInt kDown = static_cast<UInt>(kRandomBits) << C::kMantissaBits;
    const UInt quantum_field = field - f.mantissa_field;
    const T cut = FromBits<T>(quantum_field + kUp);
    if constexpr (kStochasticDown) {
      y += static_cast<T>(static_cast<int32_t>(random)) * FromBits<T>(quantum_field - kDown);
    }
    result = (y + cut) - cut;
  } else {
    const T per_quantum = FromBits<T>(kTopField - field + f.mantissa_field);
    const T quantum = FromBits<T>(field - f.mantissa_field);
    // NaN and what overflows anyway is kept from the conversion to an integer inside.
    y *= per_quantum;
    const T limit = static_cast<T>(1 << 25);
    y = y < limit ? y : limit;
    // Infinity times a scale that means nothing may be -inf, where m = 0.
    if constexpr (kRounding == Rounding::kStochastic) y = y > 0 ? y : static_cast<T>(0);
    result = RoundToInteger<kRounding, kRoundDown>(y, random) * quantum;
  }
  if constexpr (kShift) result *= Select(low, 0x1p-64f, 0x1p64f);
  T rounded = FromBits<T>(ToBits<T>(result) & ~kSignBit);

  const bool negative = (bits & kSignBit) != 0;
  if constexpr (kGapAtZero) {
    constexpr UInt kHidden = kOne << C::kMantissaBits;
    const UInt smallest = ToBits<T>(f.smallest);
    const bool in_gap = magnitude < smallest;
    const int32_t exponent = static_cast<int32_t>(x_field >> C::kMantissaBits);
    const UInt significand =
        (magnitude & (kHidden - 1)) | (static_cast<UInt>(exponent > 0) * kHidden);
    const int32_t up =
        static_cast<int32_t>(smallest >> C::kMantissaBits) - (exponent > 1 ? exponent : 1);
    const bool goes_up = RoundsUpToSmallest<kRounding, T>(
        significand, (smallest & (kHidden - 1)) | kHidden, in_gap ? up : 0, negative, random);
    const T gap = goes_up ? f.smallest : static_cast<T>(0);
    rounded = in_gap ? gap : rounded;
  }

  const float value = static_cast<float>(rounded);
  const bool beyond = (rounded > f.max) | (x_field > f.max_field);
  const float edge = kRounding == Rounding::kTowardZero
                         ? Select(magnitude == C::kInf, f.infinity, f.overflow)
                         : f.infinity;
  const float magnitude32 = Select(beyond, edge, value);
  const float sign = FromBits<float>(static_cast<uint32_t>(negative) << 31);
  const float with_sign = FromBits<float>(ToBits<float>(magnitude32) | ToBits<float>(sign));
  const bool nan = (magnitude > C::kInf) | (magnitude32 != magnitude32);
  return Select(nan, FromBits<float>(kCanonicalNan), with_sign);
}

// x rounded to a fixed-point format; saturates. kRoundDown as in RoundToInteger.
template <Rounding kRounding, bool kRoundDown = false, typename T>
LOWPREC_HD float RoundToFixed(T x, const FixedRounder<T>& f, uint32_t random) {
  // Scaling by 2^FL is exact (or overflows to inf, which the clamp takes), and clamping first gives
  // the same as clamping last, since both ends lie on the grid and rounding is monotone.
  // A NaN becomes the lowest value here: it must not reach the conversion to an integer below.
  T y = x * f.scale;
  y = y > f.lowest ? y : f.lowest;
  y = y < f.highest ? y : f.highest;
  const T rounded = RoundToInteger<kRounding, kRoundDown>(y, random);
  float value = static_cast<float>(rounded) * f.unit;
  // The format has one zero, not -0; (-0) + 0 is -0 when rounding down.
  value = kRoundDown ? Select(value != 0.0f, value, 0.0f) : value + 0.0f;
  return Select(x == x, value, FromBits<float>(kCanonicalNan));
}

// The straight-through gradient of rounding x: dy within the format's range, 0 beyond. A NaN in x
// compares false, so that it lets dy through and loss scaling sees it.
template <typename T>
LOWPREC_HD T StraightThrough(float dy, T x, T lowest, T highest) {
  return x < lowest || x > highest ? T{0} : static_cast<T>(dy);
}

LOWPREC_END_NAMESPACE

#endif  // TF_LOWPREC_CC_NUMERICS_ROUNDING_H_
