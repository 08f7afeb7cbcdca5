// Which arithmetic gives the correctly rounded partial sums of given operands.
//
// The contract is s <- round(s + a b), the exact sum rounded once. Rounding it to W bits first (W =
// 24 in float32, 53 in float64) and then to the accumulator's m + 1 is the same unless the first
// rounding, when inexact, lands on a tie of the second. With p = a b of B bits, s of m + 1 bits, t
// = s + p in [2^e, 2^(e+1)), ties being odd multiples of h = 2^(e-m-1):
//
//  - If |s| >= |t| / 4, s is a multiple of h / 4. To miss a tie by 0 < d <= 2^(e-W), p must be a
//    nonzero multiple of h / 4 give or take d (it is not d alone: s, of m + 1 bits, is no tie in
//    t's binade or above, and from below s + d does not get there). That takes W - 3 - m bits. So:
//    B + m < W - 3 is safe.
//  - If |s| < |t| / 4, |p| > 2^(e-1). Let B <= m + 1, so that p is a multiple of h. Then s must be
//    a nonzero multiple of h give or take d, which takes W - 1 - m bits: W > 2 m + 2 is safe. At W
//    = 2 m + 2 there is one such s, h - 2^(e-W): the tie is then decided in p's favour if p is an
//    even multiple of 2 h, which B <= m ensures, and that is right. With B > m + 1, p may be a tie
//    itself and s as small as it likes: not safe.
//
// And any sum that W bits hold exactly is safe: all terms are multiples of one power of two, and
// sums are bounded.
//
// Let B + m < W - 1, whatever B and m are. Then float32 is right
//
//  - if p's exponent is below s's. If t is not exact, |t| >= |s| / 2, so that s is a multiple of h,
//    and no tie in t's binade, but from below: to miss a tie by d, p has to be a nonzero multiple
//    of h give or take d, hence be more than 2^(e-m-2), with its last bit worth 2^(e-m-1-B) or
//    more. W bits hold that.
//  - else if s and p are multiples of u, and |p| < 2^W u. A t of p's binade misses a tie by less
//    than u, that is, by nothing. One above it has |s| of more than 2^(e-B): W bits hold that too.
//
// A few terms, with the sums before them, have such a u more often than all terms do.
//
// Sums below the lowest normal binade have ties at odd multiples of half the smallest quantum, of
// which s is a multiple: B + m < W is safe.
#ifndef TF_LOWPREC_CC_KERNELS_ACCUMULATION_PATH_H_
#define TF_LOWPREC_CC_KERNELS_ACCUMULATION_PATH_H_

#include "cc/kernels/matmul.h"
#include "cc/numerics/format.h"

LOWPREC_BEGIN_NAMESPACE

enum class AccumulationPath {
  kExact,          // round to odd in double, then RoundToFloat: always right, slow
  kNearest,        // one float32 FMA, rounded to nearest even by adding and subtracting
  kNearestDouble,  // the same in float64
  kNearestOdd,     // rounded to odd first (in float32 or float64), then as kNearest: always right
  kFma,            // m = 23: one FMA
  kTruncate,       // an FMA toward zero, cut
  kStochastic,     // an FMA toward zero plus random bits, cut
};

struct PathChoice {
  AccumulationPath path = AccumulationPath::kExact;
  bool may_underflow = false;  // sums may lie below the format's lowest normal binade
  // B + m < W - 1 in float32: kNearest does for terms with such a u.
  bool float_for_few = false;
  // kStochastic is right as long as no sum overflows, which is to be looked after.
  bool may_overflow = false;
  int64_t term = 0;  // products are at most 2^term
};

// What an instruction set offers.
struct PathSupport {
  bool fma;                    // else a product must be exact in float32
  bool rounding_modes;         // the thread's mode can be set
  bool looks_at_sums = false;  // a choice that may_overflow will do
};

// All |x| < 2^exponent; all x are multiples of 2^quantum. A panel of zeros has neither bound.
struct ValueBounds {
  bool finite, zero;
  int exponent, quantum;
};

LOWPREC_HD FloatFormat AccumulatorFormat(const AccumulatorSpec& spec) {
  return {spec.exponent_bits, spec.mantissa_bits, static_cast<Specials>(spec.specials),
          spec.saturate, spec.subnormals};
}

LOWPREC_HD int TopBit(uint32_t x) {  // x is not 0
#if defined(__CUDA_ARCH__)
  return 31 - __clz(static_cast<int>(x));
#else
  return 31 - __builtin_clz(x);
#endif
}

LOWPREC_HD_INLINE ValueBounds Bounds(const PanelRange& range, const OperandSpec& spec) {
  const auto exponent_of = [](uint32_t bits) {  // of the leading bit
    return bits >> 23 == 0 ? TopBit(bits) - 149 : static_cast<int>(bits >> 23) - 127;
  };
  ValueBounds b = {range.max_bits < 0x7F800000u, range.max_bits == 0, 0, 0};
  if (b.zero || !b.finite) return b;
  b.exponent = exponent_of(range.max_bits) + 1;
  const int last_bit = exponent_of(range.min_bits_minus_1 + 1) - (spec.bits - 1);
  b.quantum = last_bit > spec.min_quantum ? last_bit : spec.min_quantum;
  return b;
}

// log2 of a bound on the partial sums of n terms of magnitude <= 2^term. Rounding being monotone,
// equal terms 2^term are the worst: their sums are exact up to 2^(m+1) of them, where nearest
// rounding and truncation stop. Stochastic rounding may then go up by one last place each time.
LOWPREC_HD_INLINE int64_t SumExponent(int64_t term, int64_t n, int mantissa_bits,
                                      Rounding rounding) {
  // With m = 0 a tie goes up: once more.
  const bool up = mantissa_bits == 0 && rounding == Rounding::kNearestEven;
  const int64_t stop = int64_t{up ? 4 : 2} << mantissa_bits;
  int64_t log2 = 0;
  while ((int64_t{1} << log2) < (n < stop ? n : stop)) ++log2;
  if (rounding == Rounding::kStochastic && n > stop) {
    log2 += ((n - stop) >> mantissa_bits) + 1;
  }
  return term + log2;
}

// The same of the sums of k terms and of their chunks.
LOWPREC_HD_INLINE int64_t SumsExponent(const AccumulatorSpec& spec, int64_t term, int64_t k) {
  const Rounding rounding = static_cast<Rounding>(spec.rounding);
  const int64_t chunk = spec.chunk > 0 && spec.chunk < k ? spec.chunk : k;
  const int64_t sum = SumExponent(term, chunk, spec.mantissa_bits, rounding);
  if (chunk == k) return sum;
  return SumExponent(sum, (k + chunk - 1) / chunk, spec.mantissa_bits, rounding);
}

// log2 of a bound on stochastic sums after n terms of magnitude <= 2^term, from sums <= 2^start:
// (2^start + n 2^term) (1 + 2^-m)^n.
LOWPREC_HD_INLINE int64_t GrownExponent(int64_t start, int64_t term, int64_t n, int mantissa_bits) {
  int64_t log2 = 0;
  while ((int64_t{1} << log2) < n) ++log2;
  const int64_t sum = term + log2;
  return (start > sum ? start : sum) + 1 + ((3 * n) >> (mantissa_bits + 1)) + 1;
}

// Whether sums of at most 2^sum neither overflow the format nor, on the way, a float32.
LOWPREC_HD_INLINE bool HoldsSums(const FloatFormat& f, int64_t sum) {
  return sum <= FloatMaxExponent(f) && sum + 25 - f.mantissa_bits <= 127 && sum <= 125;
}

// What is said above of W, m and B.
LOWPREC_HD bool MayRoundTwice(int width, int m, int product_bits) {
  const bool small_sum = product_bits + m < width - 3;
  const bool small_product =
      (product_bits <= m + 1 && 2 * m + 2 < width) || (product_bits <= m && 2 * m + 2 == width);
  return small_sum && small_product;
}

// For NearestMethod::kScaled.
constexpr bool AllowsScaled(int lanes_mantissa_bits, int mantissa_bits) {
  return 2 * mantissa_bits + 3 <= lanes_mantissa_bits;
}

// Whether a choice may be float_for_few: for what formats alone say.
LOWPREC_HD bool MayBeFloatForFew(const AccumulatorSpec& spec, const OperandSpec& a,
                                 const OperandSpec& b) {
  const int m = spec.mantissa_bits, product_bits = a.bits + b.bits;
  return static_cast<Rounding>(spec.rounding) == Rounding::kNearestEven && product_bits + m < 23 &&
         !MayRoundTwice(24, m, product_bits);
}

LOWPREC_HD_INLINE PathChoice ChoosePath(const AccumulatorSpec& spec, const OperandSpec& a_spec,
                                        const OperandSpec& b_spec, const PanelRange& a_range,
                                        const PanelRange& b_range, int64_t k,
                                        const PathSupport& support) {
  const FloatFormat f = AccumulatorFormat(spec);
  const Rounding rounding = static_cast<Rounding>(spec.rounding);
  const int m = f.mantissa_bits;
  const ValueBounds a = Bounds(a_range, a_spec), b = Bounds(b_range, b_spec);
  if (!a.finite || !b.finite || k == 0) return {};
  const bool zero = a.zero || b.zero;
  const int quantum = zero ? 0 : a.quantum + b.quantum;
  const int64_t term = zero ? 0 : a.exponent + b.exponent;
  const int64_t sum = SumsExponent(spec, term, k);
  const bool may_overflow = !HoldsSums(f, sum);
  if (may_overflow && !(rounding == Rounding::kStochastic && support.looks_at_sums)) return {};

  int lowest = FloatMinExponent(f);
  if (f.specials == Specials::kDlfloat) ++lowest;  // its first binade lacks 2^min
  const bool gap = HasGapAtZero(f);
  PathChoice choice;
  choice.may_overflow = may_overflow;
  choice.term = term;
  choice.may_underflow = !zero && quantum < (gap ? lowest : lowest - m);
  if (choice.may_underflow && gap) return {};

  const int product_bits = a_spec.bits + b_spec.bits;
  const auto safe = [&](int width) {
    const bool holds_all = zero || sum + 1 - quantum <= width;
    return holds_all || MayRoundTwice(width, m, product_bits);
  };
  // A float32 FMA may lose bits below 2^-149; so may a product on its own, without FMA.
  const bool in_float = zero || quantum >= -149 || (support.fma && !choice.may_underflow);
  if (!support.rounding_modes && rounding != Rounding::kNearestEven) return {};
  const bool product_in_float = support.fma || (product_bits <= 24 && quantum >= -149);
  switch (rounding) {
    case Rounding::kNearestEven:
      if (m == 23 && support.fma && in_float && !choice.may_underflow) {
        choice.path = AccumulationPath::kFma;
      } else if (m > 21) {
        return {};
      } else if (safe(24) && in_float && product_in_float) {
        choice.path = AccumulationPath::kNearest;
      } else {
        choice.path = safe(53) ? AccumulationPath::kNearestDouble : AccumulationPath::kNearestOdd;
        choice.float_for_few = MayBeFloatForFew(spec, a_spec, b_spec) && in_float &&
                               product_in_float && !choice.may_underflow;
      }
      return choice;
    case Rounding::kTowardZero:
      if (!product_in_float || m > 21) return {};
      choice.path = AccumulationPath::kTruncate;
      return choice;
    case Rounding::kStochastic:
      // Sums below the lowest normal binade, and few bits below the last place, are left to kExact.
      if (!product_in_float || choice.may_underflow || m > 11) return {};
      choice.path = AccumulationPath::kStochastic;
      return choice;
    case Rounding::kNearestUp:
      break;
  }
  return {};
}

LOWPREC_END_NAMESPACE

#endif  // TF_LOWPREC_CC_KERNELS_ACCUMULATION_PATH_H_
