// Number formats as plain values, and the constants rounding needs of them.
#ifndef TF_LOWPREC_CC_NUMERICS_FORMAT_H_
#define TF_LOWPREC_CC_NUMERICS_FORMAT_H_

#include <cstdint>
#include <cstring>

#include "cc/numerics/macros.h"

LOWPREC_BEGIN_NAMESPACE

// Every NaN result is this one.
constexpr uint32_t kCanonicalNan = 0x7FC00000u;

enum class Rounding { kNearestEven, kNearestUp, kStochastic, kTowardZero };

// What the codes at the top of a float format mean.
//   kIeee:    the top exponent holds inf and NaN.
//   kFn:      no inf; the all-ones code is NaN.
//   kFinite:  neither.
//   kDlfloat: the all-ones code is a merged NaN/inf; the lowest exponent is a normal binade, whose
//             zero mantissa is the number 0 (Agrawal et al., "DLFloat", ARITH 2019).
enum class Specials { kIeee, kFn, kFinite, kDlfloat };

struct FloatFormat {
  int exponent_bits;
  int mantissa_bits;
  Specials specials;
  bool saturate;
  bool subnormals;
};

struct FixedFormat {
  int integer_bits;  // counts the sign bit
  int fractional_bits;
};

struct Format {
  bool is_fixed;
  FloatFormat floating;
  FixedFormat fixed;
};

// Bit-level view of the carrier type that a value comes in.
template <typename T>
struct Carrier;

template <>
struct Carrier<float> {
  using UInt = uint32_t;
  static constexpr int kMantissaBits = 23;
  static constexpr int kBias = 127;
  static constexpr UInt kInf = 0x7F800000u;
};

template <>
struct Carrier<double> {
  using UInt = uint64_t;
  static constexpr int kMantissaBits = 52;
  static constexpr int kBias = 1023;
  static constexpr UInt kInf = 0x7FF0000000000000u;
};

template <typename T>
LOWPREC_HD typename Carrier<T>::UInt ToBits(T value) {
  typename Carrier<T>::UInt bits;
  memcpy(&bits, &value, sizeof(bits));
  return bits;
}

template <typename T>
LOWPREC_HD T FromBits(typename Carrier<T>::UInt bits) {
  T value;
  memcpy(&value, &bits, sizeof(value));
  return value;
}

LOWPREC_HD int FloatBias(const FloatFormat& f) { return (1 << (f.exponent_bits - 1)) - 1; }

// Exponent of the lowest normal binade.
LOWPREC_HD int FloatMinExponent(const FloatFormat& f) {
  return (f.specials == Specials::kDlfloat ? 0 : 1) - FloatBias(f);
}

// Whether the values next to zero are farther from it than from each other.
LOWPREC_HD bool HasGapAtZero(const FloatFormat& f) {
  return !f.subnormals || f.specials == Specials::kDlfloat;
}

// Code (exponent and mantissa fields, without the sign) of the largest finite value.
LOWPREC_HD uint32_t FloatMaxCode(const FloatFormat& f) {
  const uint32_t all_ones = (1u << (f.exponent_bits + f.mantissa_bits)) - 1;
  switch (f.specials) {
    case Specials::kIeee:
      return all_ones - (1u << f.mantissa_bits);
    case Specials::kFinite:
      return all_ones;
    case Specials::kFn:
    case Specials::kDlfloat:
      break;
  }
  return all_ones - 1;
}

LOWPREC_HD float PowerOfTwo(int exponent) {  // -126 <= exponent <= 127
  return FromBits<float>(static_cast<uint32_t>(exponent + 127) << 23);
}

// The value of a finite code (no sign). float32 holds every one exactly. Computed on integers, so
// that it does not depend on the CPU's flush-to-zero mode.
LOWPREC_HD float FloatFromCode(const FloatFormat& f, uint32_t code) {
  const uint32_t mantissa = code & ((1u << f.mantissa_bits) - 1);
  const uint32_t field = code >> f.mantissa_bits;
  if (code == 0) return 0.0f;
  const bool normal = field != 0 || f.specials == Specials::kDlfloat;
  uint32_t significand = mantissa | (normal ? 1u << f.mantissa_bits : 0u);
  // value = significand * 2^exponent
  int exponent = (normal ? static_cast<int>(field) : 1) - FloatBias(f) - f.mantissa_bits;
  while (significand < (1u << 23) && exponent > -149) {
    significand <<= 1;
    --exponent;
  }
  // Now either 2^23 <= significand (normal) or exponent == -149 (subnormal in float32).
  const uint32_t bits = significand < (1u << 23)
                            ? significand
                            : (static_cast<uint32_t>(exponent + 149) << 23) + significand;
  return FromBits<float>(bits);
}

// Of the largest finite value.
LOWPREC_HD int FloatMaxExponent(const FloatFormat& f) {
  return static_cast<int>(ToBits<float>(FloatFromCode(f, FloatMaxCode(f))) >>
                          Carrier<float>::kMantissaBits) -
         Carrier<float>::kBias;
}

// What rounding to a float format needs. Fields are exponent fields of the carrier, in place.
template <typename T>
struct FloatRounder {
  using UInt = typename Carrier<T>::UInt;
  UInt min_field;       // of the format's lowest normal binade
  UInt max_field;       // of its highest binade
  UInt mantissa_field;  // mantissa_bits, as a difference of fields
  T max;                // largest finite value
  T smallest;           // smallest positive value (used for formats without subnormals)
  float overflow;       // what finite values beyond max become
  float infinity;       // what infinity becomes
};

// What rounding to a fixed-point format needs.
template <typename T>
struct FixedRounder {
  T scale;     // 2^FL
  T lowest;    // -2^(WL-1), in units of 2^-FL
  T highest;   // 2^(WL-1) - 1
  float unit;  // 2^-FL
};

template <typename T>
LOWPREC_HD FloatRounder<T> MakeFloatRounder(const FloatFormat& f, Rounding rounding) {
  using C = Carrier<T>;
  using UInt = typename C::UInt;
  constexpr UInt kFields = C::kInf;
  const float max = FloatFromCode(f, FloatMaxCode(f));
  FloatRounder<T> r;
  r.min_field = static_cast<UInt>(FloatMinExponent(f) + C::kBias) << C::kMantissaBits;
  r.max = static_cast<T>(max);
  r.max_field = ToBits<T>(r.max) & kFields;
  r.mantissa_field = static_cast<UInt>(f.mantissa_bits) << C::kMantissaBits;
  const uint32_t smallest_code = f.specials == Specials::kDlfloat ? 1u : 1u << f.mantissa_bits;
  r.smallest = static_cast<T>(FloatFromCode(f, smallest_code));
  if (f.saturate || f.specials == Specials::kFinite) {
    r.infinity = max;
  } else {
    r.infinity =
        FromBits<float>(f.specials == Specials::kIeee ? Carrier<float>::kInf : kCanonicalNan);
  }
  r.overflow = rounding == Rounding::kTowardZero ? max : r.infinity;
  return r;
}

template <typename T>
LOWPREC_HD FixedRounder<T> MakeFixedRounder(const FixedFormat& f) {
  const float half_range = PowerOfTwo(f.integer_bits + f.fractional_bits - 1);
  FixedRounder<T> r;
  r.scale = static_cast<T>(PowerOfTwo(f.fractional_bits));
  r.lowest = static_cast<T>(-half_range);
  r.highest = static_cast<T>(half_range - 1.0f);
  r.unit = PowerOfTwo(-f.fractional_bits);
  return r;
}

LOWPREC_END_NAMESPACE

#endif  // TF_LOWPREC_CC_NUMERICS_FORMAT_H_
