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

// What a group's sum is rounded to.
struct AlignedSpec {
  int fraction_bits = 13;  // of a term, below the largest exponent; at most 30
  int exponent_bits = 8;   // of the sum, with infinities and subnormal numbers
  int mantissa_bits = 13;
  bool nearest = false;  // to nearest, ties to even; or else toward zero
  int a_min_exponent = -126, b_min_exponent = -126;
};

// sum * 2^quantum rounded to the format of a sum; beyond it, either rounding gives infinity. What
// goes to 0 is +0.
// |sum| < 2^62.
LOWPREC_HD float RoundSum(int64_t sum, int quantum, const AlignedSpec& spec) {
  if (sum == 0) return 0.0f;
  const bool is_negative = sum < 0;
  uint64_t magnitude = static_cast<uint64_t>(is_negative ? -sum : sum);
  int top = 0;  // exponent of the leading bit
  while ((magnitude >> top) > 1) ++top;
  const int exponent = top + quantum;
  const int max_exponent = (1 << (spec.exponent_bits - 1)) - 1;
  const int min_exponent = 1 - max_exponent;
  // Exponent of the last bit that is kept.
  int last = (exponent > min_exponent ? exponent : min_exponent) - spec.mantissa_bits;
  const int cut = last - quantum;
  if (cut >= 64) {
    magnitude = 0;
  } else if (cut > 0) {
    const uint64_t rest = magnitude << (64 - cut);  // of 2^64
    magnitude >>= cut;
    constexpr uint64_t kHalf = uint64_t{1} << 63;
    magnitude += spec.nearest && (rest > kHalf || (rest == kHalf && (magnitude & 1) != 0));
  } else {
    last = quantum;
  }
  if (magnitude == 0) return 0.0f;
  // At most 25 bits, none of them below 2^-149; a double has room.
  const double value =
      static_cast<double>(magnitude) * FromBits<double>(static_cast<uint64_t>(1023 + last) << 52);
  const double limit = FromBits<double>(static_cast<uint64_t>(1024 + max_exponent) << 52);
  const uint32_t bits = value >= limit ? static_cast<uint32_t>(Carrier<float>::kInf)
                                       : ToBits<float>(static_cast<float>(value));
  return FromBits<float>(bits | (is_negative ? 0x80000000u : 0u));
}

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
      const int exponent = ExponentOf(x, spec.a_min_exponent) + ExponentOf(y, spec.b_min_exponent);
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
  return RoundSum(sum, quantum, spec);
}

// A dot product, group after group; after `promote` terms (a multiple of a group's; 0: never) the
// sum is added to a float32 and begins anew.
struct AlignedSum {
  int64_t promote;
  float sum = 0.0f, total = 0.0f;
  int64_t since = 0;  // terms since the sum began

  LOWPREC_HD explicit AlignedSum(int64_t promote_after) : promote(promote_after) {}

  LOWPREC_HD void AddGroup(const AlignedSpec& spec, const float* a, int64_t a_step, const float* b,
                           int64_t b_step, int count) {
    sum = AddAligned(spec, sum, a, a_step, b, b_step, count);
    since += count;
    if (since == promote) {
      total += sum;
      sum = 0.0f;
      since = 0;
    }
  }
  LOWPREC_HD float Result() const {
    const float result = promote > 0 ? total + sum : sum;
    return result == result ? result : FromBits<float>(kCanonicalNan);
  }
};

LOWPREC_END_NAMESPACE

#endif  // TF_LOWPREC_CC_NUMERICS_ALIGNED_H_
