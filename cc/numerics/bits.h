// Values on a format's grid <-> the integers that storage and hardware hold.
//   float formats: sign, exponent and mantissa fields, right-aligned in the integer.
//   fixed point:   the two's complement integer value * 2^FL.
#ifndef TF_LOWPREC_CC_NUMERICS_BITS_H_
#define TF_LOWPREC_CC_NUMERICS_BITS_H_

#include <cstdint>

#include "cc/numerics/format.h"
#include "cc/numerics/rounding.h"

LOWPREC_BEGIN_NAMESPACE

enum class CodeStatus { kOk, kOffGrid, kNoNan, kNoInf, kOutOfRange };

LOWPREC_HD int CodeBits(const Format& f) {
  return f.is_fixed ? f.fixed.integer_bits + f.fixed.fractional_bits
                    : 1 + f.floating.exponent_bits + f.floating.mantissa_bits;
}

// The code of NaN and of +inf; 0 where the format has none.
LOWPREC_HD uint32_t NanCode(const FloatFormat& f) {
  const uint32_t all_ones = (1u << (f.exponent_bits + f.mantissa_bits)) - 1;
  if (f.specials == Specials::kFinite) return 0;
  if (f.specials != Specials::kIeee) return all_ones;
  // The quiet NaN: top mantissa bit. A format without mantissa has room for inf only.
  return f.mantissa_bits == 0
             ? 0
             : (all_ones - ((1u << f.mantissa_bits) - 1)) | (1u << (f.mantissa_bits - 1));
}

LOWPREC_HD uint32_t InfCode(const FloatFormat& f) {
  return f.specials == Specials::kIeee ? FloatMaxCode(f) + 1 : 0;
}

// Written for clarity: storage is not a hot loop.
LOWPREC_HD CodeStatus EncodeFloat(float x, const FloatFormat& f, int32_t* code) {
  const uint32_t bits = ToBits<float>(x);
  const uint32_t magnitude = bits & 0x7FFFFFFFu;
  const uint32_t sign = (bits >> 31) << (f.exponent_bits + f.mantissa_bits);
  uint32_t result;
  if (magnitude > Carrier<float>::kInf) {
    if (NanCode(f) == 0) return CodeStatus::kNoNan;
    *code = static_cast<int32_t>(NanCode(f));  // one NaN, without a sign
    return CodeStatus::kOk;
  }
  if (magnitude == Carrier<float>::kInf) {
    if (InfCode(f) == 0) return CodeStatus::kNoInf;
    result = InfCode(f);
  } else {
    // The largest code whose value is at most |x|: codes are ordered as their values are.
    uint32_t low = 0;
    uint32_t high = FloatMaxCode(f);
    while (low < high) {
      const uint32_t middle = low + (high - low + 1) / 2;
      if (ToBits<float>(FloatFromCode(f, middle)) <= magnitude) {
        low = middle;
      } else {
        high = middle - 1;
      }
    }
    if (ToBits<float>(FloatFromCode(f, low)) != magnitude) return CodeStatus::kOffGrid;
    // Formats without subnormals have codes below their smallest value, which stand for nothing.
    if (!f.subnormals && f.specials != Specials::kDlfloat && low != 0 &&
        low < (1u << f.mantissa_bits)) {
      return CodeStatus::kOffGrid;
    }
    result = low;
  }
  *code = static_cast<int32_t>(result | sign);
  return CodeStatus::kOk;
}

LOWPREC_HD CodeStatus EncodeFixed(float x, const FixedFormat& f, int32_t* code) {
  if (x != x) return CodeStatus::kNoNan;
  const FixedRounder<float> r = MakeFixedRounder<float>(f);
  const float scaled = x * r.scale;
  if (scaled < r.lowest || scaled > r.highest) return CodeStatus::kOutOfRange;
  const int32_t whole = static_cast<int32_t>(scaled);
  if (static_cast<float>(whole) != scaled) return CodeStatus::kOffGrid;
  *code = whole;
  return CodeStatus::kOk;
}

LOWPREC_HD CodeStatus Encode(float x, const Format& f, int32_t* code) {
  return f.is_fixed ? EncodeFixed(x, f.fixed, code) : EncodeFloat(x, f.floating, code);
}

// `code` may carry sign extension above the format's bits (an int8 holding an E5M2 code).
// kOutOfRange: bits above the format that are no sign extension. kOffGrid: a code without value.
LOWPREC_HD CodeStatus Decode(int32_t code, const Format& f, float* x) {
  const int width = CodeBits(f);
  const int32_t above = width == 32 ? 0 : code >> (width - 1);  // sign bit and all above it
  if (f.is_fixed) {
    if (above != 0 && above != -1) return CodeStatus::kOutOfRange;
    *x = static_cast<float>(code) * PowerOfTwo(-f.fixed.fractional_bits) + 0.0f;
    return CodeStatus::kOk;
  }
  if (above != 0 && above != -1 && above != 1) return CodeStatus::kOutOfRange;
  const FloatFormat& format = f.floating;
  const uint32_t all_ones = (1u << (width - 1)) - 1;
  const uint32_t magnitude = static_cast<uint32_t>(code) & all_ones;
  const uint32_t sign = ((static_cast<uint32_t>(code) >> (width - 1)) & 1u) << 31;
  if (magnitude > FloatMaxCode(format)) {
    const bool inf = magnitude == InfCode(format);
    *x = FromBits<float>(inf ? Carrier<float>::kInf | sign : kCanonicalNan);
    return CodeStatus::kOk;
  }
  if (!format.subnormals && format.specials != Specials::kDlfloat && magnitude != 0 &&
      magnitude < (1u << format.mantissa_bits)) {
    return CodeStatus::kOffGrid;
  }
  *x = FromBits<float>(ToBits<float>(FloatFromCode(format, magnitude)) | sign);
  return CodeStatus::kOk;
}

LOWPREC_END_NAMESPACE

#endif  // TF_LOWPREC_CC_NUMERICS_BITS_H_
