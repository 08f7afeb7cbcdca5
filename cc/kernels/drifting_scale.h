// Sums whose scale changes as they go, so that rounding one takes an operation less.
//
// Let t = s + a b have the exponent e, and d = 23 - m. Then y = (1 - 2^-d) t, rounded to float32,
// is t less what 2^-d t is in units of t's last float32 place. So t - y, which is exact, is 2^-d
// times t rounded to a multiple of 2^(e-m), its last place of m bits. On a tie t ends in zeros, so
// that y, which goes to the even side, takes t there. If y is below 2^e, where its last place is
// half as much, t is at most 2^(e-d) above 2^e and becomes it either way, if 2 m + 3 <= 23.
//
// These are two operations where y - (y - t) has three (NearestMethod), but the sum comes out 2^d
// times smaller. So let it: before step k sums are kept times 2^Exponent(k), and so is the right
// operand's row k. The last step of a period takes the sums back up as it rounds.
#ifndef TF_LOWPREC_CC_KERNELS_DRIFTING_SCALE_H_
#define TF_LOWPREC_CC_KERNELS_DRIFTING_SCALE_H_

#include "cc/kernels/accumulation_path.h"
#include "cc/kernels/float_lanes.h"
#include "cc/kernels/matmul.h"
#include "cc/kernels/tile_shape.h"

LOWPREC_BEGIN_NAMESPACE

// A shorter period gains nothing: its last step is slower than others.
constexpr int kShortestPeriod = 4, kLongestPeriod = 8;
// Tiles for which the right operand is scaled: for fewer that costs what it gains.
constexpr int kFewestDrifting = 2;

// The scale for sums of at most 2^sum, of products that are multiples of 2^product_quantum, and a
// right operand between 2^b_quantum and 2^b_exponent.
inline DriftingScale DriftWithin(int mantissa_bits, int64_t sum, int product_quantum, int b_quantum,
                                 int b_exponent) {
  const int drop = FloatLanes::kMantissaBits - mantissa_bits;
  // 2^(drop period) is a float32.
  for (int period = Min(kLongestPeriod, 127 / drop); period >= kShortestPeriod; --period) {
    // Nothing but zeros is below 2^-126 or reaches 2^128: the right operand; sums, which are
    // multiples of the products' quantum; and what is subtracted as they are taken up.
    const int lowest = Min(b_quantum, product_quantum);
    // And powers of two that go there and back are float32s.
    const int64_t least = (period - 1) * drop - 126 - Min(lowest, 0);
    const int64_t most = Min(Min(int64_t{125} - drop - sum, 127 - b_exponent), 126);
    if (least <= most) return {period, drop, static_cast<int>(Max(least, Min(most, 0)))};
  }
  return {};
}

inline bool MayDrift(const AccumulatorSpec& spec, const PathChoice& choice) {
  return choice.path == AccumulationPath::kNearest && !choice.may_underflow &&
         AllowsScaled(FloatLanes::kMantissaBits, spec.mantissa_bits);
}

// How sums may drift, if they may, of operands with this choice.
inline DriftingScale FindDrift(const AccumulatorSpec& spec, const OperandSpec& a_spec,
                               const OperandSpec& b_spec, const PanelRange& a_range,
                               const PanelRange& b_range, const PathChoice& choice) {
  const ValueBounds a = Bounds(a_range, a_spec), b = Bounds(b_range, b_spec);
  if (!MayDrift(spec, choice) || a.zero || b.zero) return {};
  return DriftWithin(spec.mantissa_bits, choice.sum, a.quantum + b.quantum, b.quantum, b.exponent);
}

// The same before anything is known of the operands but their formats: a scale for any that
// MayDrift; none where few or no values would, so that it is not taken back all the time.
inline DriftingScale ExpectDrift(const AccumulatorSpec& spec, const OperandSpec& a,
                                 const OperandSpec& b, int64_t k) {
  const bool nearest = static_cast<Rounding>(spec.rounding) == Rounding::kNearestEven;
  if (!nearest || !AllowsScaled(FloatLanes::kMantissaBits, spec.mantissa_bits) ||
      !MayRoundTwice(FloatLanes::kMantissaBits + 1, spec.mantissa_bits, a.bits + b.bits)) {
    return {};
  }
  // Where sums may overflow, they do not drift.
  const int64_t sum = Min(int64_t{FloatMaxExponent(AccumulatorFormat(spec))},
                          SumsExponent(spec, a.max_exponent + b.max_exponent, k));
  return DriftWithin(spec.mantissa_bits, sum, a.min_quantum + b.min_quantum, b.min_quantum,
                     b.max_exponent);
}

// Rows of kColumns of the right operand, from step k on, from one scale to another.
inline void ScaleRows(const DriftingScale& before, const DriftingScale& after, int64_t k,
                      int64_t rows, const float* from, float* to) {
  float back[kLongestPeriod * kLongestPeriod], there[kLongestPeriod * kLongestPeriod];
  const int period = Max(before.period, 1) * Max(after.period, 1);
  for (int i = 0; i < period; ++i) {
    back[i] = PowerOfTwo(-before.Exponent(k + i));
    there[i] = PowerOfTwo(after.Exponent(k + i));
  }
  using L = FloatLanes;
  for (int64_t row = 0; row < rows;) {
    for (int i = 0; i < period && row < rows; ++i, ++row) {
      const L::Vector x = L::Product(L::Load(from + row * kColumns), L::Set(back[i]));
      L::Store(to + row * kColumns, L::Product(x, L::Set(there[i])));
    }
  }
}

LOWPREC_END_NAMESPACE

#endif  // TF_LOWPREC_CC_KERNELS_DRIFTING_SCALE_H_
