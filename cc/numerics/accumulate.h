// One step of a dot product with a narrow accumulator: s <- round(s + a * b), where the exact
// s + a * b is rounded once. The order of the steps is the caller's.
#ifndef TF_LOWPREC_CC_NUMERICS_ACCUMULATE_H_
#define TF_LOWPREC_CC_NUMERICS_ACCUMULATE_H_

#include "cc/numerics/format.h"
#include "cc/numerics/philox.h"
#include "cc/numerics/rounding.h"

LOWPREC_BEGIN_NAMESPACE

// Stochastic accumulators use r of this many bits: s + a * b, in units of the accumulator's last
// place, becomes floor(|s + a * b| + r * 2^-16).
constexpr int kAccumulatorRandomBits = 16;

// Marsaglia's xorshift generator (13, 17, 5): one step of an output element's state.
LOWPREC_HD uint32_t NextRandomState(uint32_t x) {
  x ^= x << 13;
  x ^= x >> 17;
  x ^= x << 5;
  return x;
}

// The state that a random word stands for: the generator has no zero state.
LOWPREC_HD uint32_t RandomStateOf(uint32_t word) { return word != 0 ? word : 1u; }

// The state before the first step of output element `index`.
LOWPREC_HD uint32_t FirstRandomState(uint64_t index, uint64_t stream, PhiloxKey key) {
  return RandomStateOf(RandomWord(index, stream, key));
}

// In place of a left operand, as bits: the term is left out. A NaN that no operand holds once it
// went through NotLeftOut.
constexpr uint32_t kLeftOut = 0xFFFFFFFFu;
LOWPREC_HD float NotLeftOut(float x) {
  return ToBits<float>(x) == kLeftOut ? FromBits<float>(kCanonicalNan) : x;
}

// s + p rounded to odd in 53 bits: if it is inexact, of its two neighbours the one whose last bit
// is set. Any later rounding to 51 bits or fewer then gives what it would give for the exact sum
// (Boldo and Melquiond, "Emulation of FMA and correctly rounded sums", IEEE ToC 2008), and so does
// a floor in units above the last of the 53 bits.
LOWPREC_HD double AddToOdd(double s, double p) {
  const double t = s + p;
  const double back = t - s;
  const double error = (s - (t - back)) + (p - back);  // exact: TwoSum, Knuth
  const uint64_t bits = ToBits<double>(t);
  // NaN and infinity give a NaN here, which is no correction.
  const uint64_t inexact = static_cast<uint64_t>((error < 0) | (error > 0));
  // t is one too far from zero where the error has the other sign.
  const uint64_t beyond = (ToBits<double>(error) ^ bits) >> 63;
  return FromBits<double>((bits - (inexact & beyond)) | inexact);
}

// What the rounding of an accumulator needs: f is a FloatRounder of doubles.
template <Rounding kRounding, bool kGapAtZero>
LOWPREC_HD float AccumulateStep(float s, float a, float b, const FloatRounder<double>& f,
                                uint32_t r) {
  // 24 + 24 bits, and exponents that a double has to spare.
  const double product = static_cast<double>(a) * static_cast<double>(b);
  return RoundToFloat<kRounding, kGapAtZero>(AddToOdd(s, product), f,
                                             r << (kRandomBits - kAccumulatorRandomBits));
}

LOWPREC_END_NAMESPACE

#endif  // TF_LOWPREC_CC_NUMERICS_ACCUMULATE_H_
