// The vector form of AccumulateStep for every path of accumulation_path.h but kExact: a step takes
// the partial sums s to round(s + a b), for operands on which ChoosePath found it right.
#ifndef TF_LOWPREC_CC_KERNELS_ACCUMULATION_STEPS_H_
#define TF_LOWPREC_CC_KERNELS_ACCUMULATION_STEPS_H_

#include "cc/kernels/accumulation_path.h"
#include "cc/kernels/float_lanes.h"
#include "cc/kernels/float_mode.h"
#include "cc/numerics/accumulate.h"

LOWPREC_BEGIN_NAMESPACE

struct NoState {};

// Rounds t to m bits, to nearest even: adding 2^(M - m) times t's own power of two (M: mantissa
// bits of the lanes) leaves no room for more, and subtracting it again is exact.
//
// With kMasked, a NaN among the operands means: leave the sum as it is. With kUnderflow only: where
// sums cannot be -0, adding 0 does the same.
template <typename L, bool kUnderflow, bool kToOdd, bool kMasked = false>
struct NearestStep {
  using Lanes = L;
  using V = typename L::Vector;
  using Bits = typename L::Bits;
  using State = NoState;
  static constexpr bool kTowardZero = false;

  explicit NearestStep(const AccumulatorSpec& spec) {
    const Bits drop = static_cast<Bits>(L::kMantissaBits - spec.mantissa_bits);
    const Bits sign = Bits{1} << (sizeof(Bits) * 8 - 1);
    const Bits exponent = (sign - 1) & ~((Bits{1} << L::kMantissaBits) - 1);
    sign_ = L::SetBits(sign);
    // Of a sum below the lowest normal binade, the power of two is that binade's; 1.5 times as
    // much is added then, so that it need not have the sum's sign.
    keep_ = L::SetBits(kUnderflow ? exponent : exponent | sign);
    shift_ = L::SetBits((drop << L::kMantissaBits) |
                        (kUnderflow ? Bits{1} << (L::kMantissaBits - 1) : Bits{0}));
    scale_ = L::SetBits((static_cast<Bits>(L::kMantissaBits == 23 ? 127 : 1023) + drop)
                        << L::kMantissaBits);
    lowest_ = L::Set(PowerOfTwo(FloatMinExponent(AccumulatorFormat(spec))));
  }

  template <int kIndex>
  V Round(V s, V a, V b, State&) const {
    V t;
    if constexpr (kToOdd) {
      t = L::FmaToOdd(a, b, s);
    } else {
      t = L::Fma(a, b, s);
    }
    V big = L::And(t, keep_);
    if constexpr (kUnderflow) {
      big = L::AddBits(L::Max(big, lowest_), shift_);
      const V rounded = L::OrAnd(L::Sub(L::Add(t, big), big), t, sign_);
      if constexpr (kMasked) return L::IfNan(t, s, rounded);
      return rounded;
    }
#if defined(__AVX512F__)
    // The same with multiply-adds: Zen's adders alone would be the bottleneck.
    if constexpr (kIndex % 5 < 3) {
      return L::SubtractProduct(big, scale_, L::Fma(big, scale_, t));
    }
#endif
    big = L::AddBits(big, shift_);
    return L::Sub(L::Add(t, big), big);
  }

 private:
  V keep_, shift_, scale_, lowest_, sign_;
};

// m = 23: float32 itself.
struct FmaStep {
  using Lanes = FloatLanes;
  using V = FloatLanes::Vector;
  using State = NoState;
  static constexpr bool kTowardZero = false;
  explicit FmaStep(const AccumulatorSpec&) {}
  template <int kIndex>
  V Round(V s, V a, V b, State&) const {
    return FloatLanes::Fma(a, b, s);
  }
};

// Runs with the rounding mode toward zero: cutting what was cut already is cutting once.
template <bool kUnderflow, bool kMasked = false>
struct TruncateStep {
  using Lanes = FloatLanes;
  using V = FloatLanes::Vector;
  using State = NoState;
  static constexpr bool kTowardZero = true;

  explicit TruncateStep(const AccumulatorSpec& spec) {
    const int m = spec.mantissa_bits;
    const float lowest = PowerOfTwo(FloatMinExponent(AccumulatorFormat(spec)));
    keep_ = Lanes::SetBits(~((1u << (23 - m)) - 1));
    sign_ = Lanes::SetBits(0x80000000u);
    magnitude_ = Lanes::SetBits(0x7FFFFFFFu);
    lowest_ = Lanes::Set(lowest);
    big_ = Lanes::AddBits(lowest_, Lanes::SetBits(static_cast<uint32_t>(23 - m) << 23));
  }

  template <int kIndex>
  V Round(V s, V a, V b, State&) const {
    const V t = Lanes::Fma(a, b, s);
    const V cut = Lanes::And(t, keep_);
    if constexpr (!kUnderflow) return cut;
    // Below the lowest normal binade, to multiples of the smallest quantum.
    const V big = Lanes::OrAnd(big_, t, sign_);
    const V low = Lanes::OrAnd(Lanes::Sub(Lanes::Add(t, big), big), t, sign_);
    const V rounded = Lanes::IfLess(Lanes::And(t, magnitude_), lowest_, low, cut);
    if constexpr (kMasked) return Lanes::IfNan(t, s, rounded);
    return rounded;
  }

 private:
  V keep_, sign_, magnitude_, lowest_, big_;
};

// Runs with the rounding mode toward zero. The truncated sum has `drop` = 23 - m bits below the
// last place. If these are fewer than the 16 random bits, what is cut of both matters only where
// the sum of what is left is all ones below the last place: those vectors are done again, exactly.
template <bool kFewBits>
struct StochasticStep {
  using Lanes = FloatLanes;
  using V = FloatLanes::Vector;
  struct State {
    V x;
  };
  static constexpr bool kTowardZero = true;
  static constexpr int kLanes = Lanes::kLanes;

  explicit StochasticStep(const AccumulatorSpec& spec)
      : rounder_(MakeFloatRounder<double>(AccumulatorFormat(spec), Rounding::kStochastic)) {
    const uint32_t drop = static_cast<uint32_t>(23 - spec.mantissa_bits);
    low_ = Lanes::SetBits((1u << drop) - 1);
    keep_ = Lanes::SetBits(~((1u << drop) - 1));
    shift_ = Lanes::SetBits(32 - drop);
    top_ = Lanes::SetBits(~0u << (32 - kAccumulatorRandomBits));
    one_ = Lanes::SetBits(1);
  }

  template <int kIndex>
  V Round(V s, V a, V b, State& state) const {
    V x = state.x;
    x = Lanes::Xor(x, Lanes::ShiftLeft(x, 13));
    x = Lanes::Xor(x, Lanes::ShiftRight(x, 17));
    x = Lanes::Xor(x, Lanes::ShiftLeft(x, 5));
    state.x = x;
    if constexpr (!kFewBits) x = Lanes::And(x, top_);
    const V r = Lanes::ShiftRightBy(x, shift_);
    const V sum = Lanes::AddBits(Lanes::Fma(a, b, s), r);
    if constexpr (kFewBits) {
      if (__builtin_expect(Lanes::AnyZeroBits(Lanes::AddBits(sum, one_), low_), 0)) {
        return Exactly(s, a, b, x);
      }
    }
    return Lanes::And(sum, keep_);
  }

 private:
  V Exactly(V s, V a, V b, V x) const {
    alignas(64) float sums[kLanes], lhs[kLanes], rhs[kLanes];
    alignas(64) uint32_t states[kLanes];
    Lanes::Store(sums, s);
    Lanes::Store(lhs, a);
    Lanes::Store(rhs, b);
    Lanes::StoreBits(states, x);
    const ScopedRoundToNearest nearest;
    StepLanes(sums, lhs, rhs, states);
    return Lanes::Load(sums);
  }

  // Not inlined, so that nothing of it moves out of the rounding mode's scope.
  __attribute__((noinline)) void StepLanes(float* s, const float* a, const float* b,
                                           const uint32_t* states) const {
    for (int i = 0; i < kLanes; ++i) {
      const uint32_t r = states[i] >> (32 - kAccumulatorRandomBits);
      s[i] = AccumulateStep<Rounding::kStochastic, false>(s[i], a[i], b[i], rounder_, r);
    }
  }

  FloatRounder<double> rounder_;
  V low_, keep_, one_, shift_, top_;
};

LOWPREC_END_NAMESPACE

#endif  // TF_LOWPREC_CC_KERNELS_ACCUMULATION_STEPS_H_
