// The one place where a value is rounded: CPU kernels, CUDA kernels and the tests of the RTL all
// call RoundToFloat and RoundToFixed. Both return the correctly rounded value of x, rounded once.
//
// `random` is r of the stochastic mode, 0 <= r < 2^24: the magnitude (floats) or the two's
// complement value (fixed point), measured in units of the last place, becomes
// floor(value + r * 2^-24). Bits of x below 2^-24 units cannot change that floor, since r is an
// integer multiple of 2^-24, so they may be cut.
//
// Subnormal carriers need flush-to-zero and denormals-are-zero off (cc/kernels/denormals.h).
#ifndef TF_LOWPREC_CC_NUMERICS_ROUNDING_H_
#define TF_LOWPREC_CC_NUMERICS_ROUNDING_H_

#include <cmath>

#include "cc/numerics/format.h"

LOWPREC_BEGIN_NAMESPACE

constexpr uint32_t kCanonicalNan = 0x7FC00000u;
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
template <typename UInt>
LOWPREC_HD UInt Select(bool condition, UInt yes, UInt no) {
  return no ^ ((yes ^ no) & (UInt{0} - static_cast<UInt>(condition)));
}

// round(significand / 2^shift) for a magnitude, 0 <= shift < width of UInt.
template <Rounding kRounding, typename UInt>
LOWPREC_HD UInt RoundShift(UInt significand, UInt shift, bool negative, uint32_t random) {
  const UInt one = 1;
  const UInt mask = (one << shift) - 1;
  if constexpr (kRounding == Rounding::kNearestEven) {
    const UInt odd = (significand >> shift) & mask & one;  // mask: no rounding at shift 0
    return (significand + (mask >> 1) + odd) >> shift;
  } else if constexpr (kRounding == Rounding::kNearestUp) {
    const UInt half = (one << shift) >> 1;  // 0 at shift 0
    return (significand + half - (static_cast<UInt>(negative) & mask & one)) >> shift;
  } else if constexpr (kRounding == Rounding::kStochastic) {
    const UInt fraction = significand & mask;
    UInt fraction24;
    if constexpr (sizeof(UInt) == 4) {
      fraction24 = fraction << (kRandomBits - shift);  // a float's shift is at most 24
    } else {
      const UInt far = Select<UInt>(shift > kRandomBits, shift - kRandomBits, 0);
      fraction24 = (fraction >> far) << (kRandomBits + far - shift);
    }
    return (significand >> shift) + ((fraction24 + random) >> kRandomBits);
  } else {
    return significand >> shift;
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

// x rounded to a float format. kGapAtZero: the format has no subnormals.
template <Rounding kRounding, bool kGapAtZero, typename T>
LOWPREC_HD float RoundToFloat(T x, const FloatRounder<T>& f, uint32_t random) {
  using C = Carrier<T>;
  using UInt = typename C::UInt;
  constexpr UInt kOne = 1;
  constexpr int kSignificandBits = C::kMantissaBits + 1;
  const UInt bits = ToBits<T>(x);
  const UInt sign_bit = kOne << (sizeof(T) * 8 - 1);
  const UInt magnitude = bits & ~sign_bit;
  const bool negative = (bits & sign_bit) != 0;

  const int32_t field = static_cast<int32_t>(magnitude >> C::kMantissaBits);
  const int32_t exponent = field > 1 ? field : 1;
  constexpr UInt kHidden = kOne << C::kMantissaBits;
  const UInt significand = (magnitude & (kHidden - 1)) | (static_cast<UInt>(field > 0) * kHidden);

  // |x| = significand * 2^(exponent - const); the format's quantum there is 2^shift of its units.
  const int32_t below = f.min_exponent - exponent;
  int32_t shift = f.normal_shift + (below > 0 ? below : 0);
  // A shift beyond the significand leaves 0 or 1: move the excess into the exponent. The bits that
  // this cuts decide nothing (nearest: |x| is under half a quantum either way).
  int32_t excess = shift - kSignificandBits;
  excess = excess < 0 ? 0 : excess;
  shift -= excess;
  const int32_t last = static_cast<int32_t>(sizeof(T) * 8 - 1);
  const UInt cut = significand >> static_cast<UInt>(excess < last ? excess : last);
  const UInt quotient =
      RoundShift<kRounding, UInt>(cut, static_cast<UInt>(shift), negative, random);
  // A significand carries its leading bit into the exponent field by addition.
  UInt result = (static_cast<UInt>(exponent + excess - 1) << C::kMantissaBits) +
                (quotient << static_cast<UInt>(shift));
  result = Select<UInt>(quotient == 0, 0, result);

  if constexpr (kGapAtZero) {
    // The smallest value of such formats is a normal number in every carrier.
    const int32_t min_field = static_cast<int32_t>(f.min_bits >> C::kMantissaBits);
    const UInt min_significand = (f.min_bits & (kHidden - 1)) | kHidden;
    const bool in_gap = magnitude < f.min_bits;
    const bool up = RoundsUpToSmallest<kRounding, T>(
        significand, min_significand, in_gap ? min_field - exponent : 0, negative, random);
    result = Select<UInt>(in_gap, Select<UInt>(up, f.min_bits, 0), result);
  }

  const UInt beyond = Select<UInt>(magnitude == C::kInf, f.inf_bits, f.overflow_bits);
  result = Select<UInt>(result > f.max_bits, beyond, result);
  const float value = static_cast<float>(FromBits<T>(result | (bits & sign_bit)));
  const bool nan = (magnitude > C::kInf) | (result > C::kInf);
  return FromBits<float>(Select<uint32_t>(nan, kCanonicalNan, ToBits<float>(value)));
}

// x rounded to a fixed-point format; saturates.
template <Rounding kRounding, typename T>
LOWPREC_HD float RoundToFixed(T x, const FixedRounder<T>& f, uint32_t random) {
  // Scaling by 2^FL is exact (or overflows to inf, which the clamp takes), and clamping first gives
  // the same as clamping last, since both ends lie on the grid and rounding is monotone.
  T y = x * f.scale;
  y = y < f.lowest ? f.lowest : y;
  y = y > f.highest ? f.highest : y;
  T rounded;
  if constexpr (kRounding == Rounding::kNearestEven) {
    rounded = NearestEven(y);
  } else if constexpr (kRounding == Rounding::kNearestUp) {
    // y - floor(y) is exact except for tiny negative y, where it still compares right with 1/2.
    const T down = Floor(y);
    rounded = down + (y - down >= static_cast<T>(0.5) ? static_cast<T>(1) : static_cast<T>(0));
  } else if constexpr (kRounding == Rounding::kStochastic) {
    // floor(y + r 2^-24) with y = whole + part; |part| < 1 has y's sign and is exact.
    const T whole = Truncate(y);
    const T part = Floor((y - whole) * static_cast<T>(1 << kRandomBits));
    // NaN never reaches the integer conversion: it would be undefined behaviour.
    const int32_t part24 = static_cast<int32_t>(y == y ? part : static_cast<T>(0));
    const int32_t carry = (part24 + static_cast<int32_t>(random)) >> kRandomBits;
    rounded = whole + static_cast<T>(carry);
  } else {
    rounded = Truncate(y);
  }
  // + 0 turns -0 into the format's one zero.
  const float value = static_cast<float>(rounded) * f.unit + 0.0f;
  return x == x ? value : FromBits<float>(kCanonicalNan);
}

// The straight-through gradient of rounding x: dy within the format's range, 0 beyond. A NaN in x
// compares false, so that it lets dy through and loss scaling sees it.
template <typename T>
LOWPREC_HD T StraightThrough(float dy, T x, T lowest, T highest) {
  return x < lowest || x > highest ? T{0} : static_cast<T>(dy);
}

LOWPREC_END_NAMESPACE

#endif  // TF_LOWPREC_CC_NUMERICS_ROUNDING_H_
