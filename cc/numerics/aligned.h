// A group of products added as tensor cores add them: every term, the running sum among them, is
// aligned to the largest exponent, cut to so many fractional bits, and the cut terms are added
// exactly. In integers, one group at a time; docs/hardware_formats.md has the definition.
#ifndef TF_LOWPREC_CC_NUMERICS_ALIGNED_H_
#define TF_LOWPREC_CC_NUMERICS_ALIGNED_H_

#include <cstdint>

#include "cc/numerics/format.h"
#include "cc/numerics/rounding.h"

LOWPREC_BEGIN_NAMESPACE

// A finite float32 other than 0 is significand * 2^quantum. Its exponent, the one that terms are
// aligned by, is that of its leading bit, but no less than the format's lowest: subnormal numbers
// are not normalized.
struct AlignedTerm {
  int64_t significand;  // with the sign
  int quantum;
  int exponent;
};

LOWPREC_HD int ExponentOf(float x, int min_exponent) {
  const int exponent = static_cast<int>((ToBits<float>(x) >> 23) & 0xFFu) - 127;
  return exponent > min_exponent ? exponent : min_exponent;
}

LOWPREC_HD AlignedTerm MakeAlignedTerm(float x, int min_exponent) {
  const uint32_t bits = ToBits<float>(x);
  const int field = static_cast<int>((bits >> 23) & 0xFFu);
  const int64_t magnitude = (bits & 0x7FFFFFu) | (field > 0 ? 0x800000u : 0u);
  AlignedTerm term;
  term.significand = (bits >> 31) != 0 ? -magnitude : magnitude;
  term.quantum = (field > 0 ? field : 1) - 150;
  term.exponent = ExponentOf(x, min_exponent);
  return term;
}

// significand * 2^shift, cut toward zero.
LOWPREC_HD int64_t CutTerm(int64_t significand, int shift) {
  if (shift >= 0) return significand * (int64_t{1} << shift);
  if (shift < -62) return 0;
  return significand / (int64_t{1} << -shift);
}

// sum * 2^quantum with so many mantissa bits, cut toward zero. |sum| < 2^62.
LOWPREC_HD float CutToFloat(int64_t sum, int quantum, int mantissa_bits) {
  if (sum == 0) return 0.0f;
  const bool is_negative = sum < 0;
  uint64_t magnitude = static_cast<uint64_t>(is_negative ? -sum : sum);
  int top = 0;  // exponent of the leading bit
  while ((magnitude >> top) > 1) ++top;
  const int exponent = top + quantum;
  // Exponent of the last bit that is kept; below the normal range, that of float32's last.
  int last = (exponent > -126 ? exponent : -126) - mantissa_bits;
  const int cut = last - quantum;
  if (cut >= 64) {
    magnitude = 0;
  } else if (cut > 0) {
    magnitude >>= cut;
  } else {
    last = quantum;
  }
  uint32_t bits;
  if (exponent > 127) {
    bits = Carrier<float>::kInf;
  } else {
    // magnitude * 2^last has at most 24 bits, none of them below 2^-149.
    const double value = static_cast<double>(magnitude) *
                         FromBits<double>(static_cast<uint64_t>(1023 + last) << 52);
    bits = ToBits<float>(static_cast<float>(value));
  }
  return FromBits<float>(bits | (is_negative ? 0x80000000u : 0u));
}

struct AlignedSpec {
  int fraction_bits = 13;  // of a term, below the largest exponent; at most 30
  int mantissa_bits = 13;  // of a sum; at most 23
  int a_min_exponent = -126, b_min_exponent = -126;
};

// The sum of s and a[k] b[k] for k < count (at most 2^20), steps between elements given.
LOWPREC_HD float AddAligned(const AlignedSpec& spec, float s, const float* a, int64_t a_step,
                            const float* b, int64_t b_step, int count) {
  int largest = -1024;
  // NaN, and infinities by IEEE: of both signs, or times 0, they give NaN.
  float special = s - s;
  bool is_special = special != special;
  special = is_special ? s : 0.0f;
  if (s != 0.0f && !is_special) largest = ExponentOf(s, -126);
  for (int k = 0; k < count; ++k) {
    const float x = a[k * a_step], y = b[k * b_step];
    const float probe = (x - x) + (y - y);
    if (probe != probe) {
      is_special = true;
      special += x * y;
    } else if (x != 0.0f && y != 0.0f) {
      const int exponent =
          ExponentOf(x, spec.a_min_exponent) + ExponentOf(y, spec.b_min_exponent);
      largest = exponent > largest ? exponent : largest;
    }
  }
  if (is_special) return special != special ? FromBits<float>(kCanonicalNan) : special;
  if (largest == -1024) return 0.0f;
  const int quantum = largest - spec.fraction_bits;
  const AlignedTerm first = MakeAlignedTerm(s, -126);
  int64_t sum = CutTerm(first.significand, first.quantum - quantum);
  for (int k = 0; k < count; ++k) {
    const AlignedTerm x = MakeAlignedTerm(a[k * a_step], spec.a_min_exponent);
    const AlignedTerm y = MakeAlignedTerm(b[k * b_step], spec.b_min_exponent);
    if (x.significand == 0 || y.significand == 0) continue;
    sum += CutTerm(x.significand * y.significand, x.quantum + y.quantum - quantum);
  }
  return CutToFloat(sum, quantum, spec.mantissa_bits);
}

LOWPREC_END_NAMESPACE

#endif  // TF_LOWPREC_CC_NUMERICS_ALIGNED_H_
