// The step of stochastic rounding.
#ifndef TF_LOWPREC_CC_KERNELS_STOCHASTIC_STEP_H_
#define TF_LOWPREC_CC_KERNELS_STOCHASTIC_STEP_H_

#include <type_traits>

#include "cc/kernels/accumulation_steps.h"
#include "cc/kernels/float_mode.h"
#include "cc/kernels/random_history.h"
#include "cc/numerics/accumulate.h"

LOWPREC_BEGIN_NAMESPACE

// How many bits the truncated sum has below the last place, against the 16 random bits.
enum class StochasticBits { kMore, kAsMany, kFewer };

// Where the random bits come from: the generators' states; these, but the bits are kept in a
// RandomHistory; or what was kept.
enum class RandomSource { kStates, kKeptStates, kHistory };

// Runs with the rounding mode toward zero. The truncated sum has `drop` = 23 - m bits below the
// last place. If these are fewer than the random bits, what is cut of both matters only where the
// sum of what is left is all ones below the last place: those vectors are done again, exactly.
template <StochasticBits kBits, bool kGuess, RandomSource kSource>
struct StochasticStep : SureStep {
  using Lanes = FloatLanes;
  using V = FloatLanes::Vector;
  using State = RandomState;
  using Words = std::conditional_t<kSource == RandomSource::kStates, NoWords, NextWords>;
  struct Doubt {
    V most;
  };
  using Careful = StochasticStep<kBits, false, kSource>;
  using Chunk = Careful;
  static constexpr int kGuesses = kGuess ? 16 : 0;
  static constexpr bool kTowardZero = true, kPairs = true;
  static constexpr int kLanes = Lanes::kLanes;

  explicit StochasticStep(const AccumulatorSpec& spec)
      : rounder_(MakeFloatRounder<double>(AccumulatorFormat(spec), Rounding::kStochastic)) {
    const uint32_t drop = static_cast<uint32_t>(23 - spec.mantissa_bits);
    low_ = Lanes::SetBits((1u << drop) - 1);
    keep_ = Lanes::SetBits(~((1u << drop) - 1));
    shift_ = Lanes::SetBits(32 - drop);
    low_half_ = Lanes::SetBits(1u << (drop < 16 ? drop : 0));
    one_ = Lanes::SetBits(1);
  }

  template <int kPair>
  void RoundPair(V& s0, V& s1, V a0, V a1, V b, State& state0, State& state1, Words words,
                 Doubt& doubt) const {
    const V t0 = Lanes::Fma(a0, b, s0), t1 = Lanes::Fma(a1, b, s1);
    V x0, x1, r0, r1;  // the random bits in the upper halves of x, and as they are added
    if constexpr (kSource == RandomSource::kHistory) {
      x0 = Recalled(words.at + kPair * kLanes);
      x1 = Lanes::ShiftLeft(x0, 16);
      r0 = Placed(x0);
      if constexpr (kBits == StochasticBits::kMore) {
        r1 = Lanes::ShiftRightBy(x1, shift_);
      } else if constexpr (kBits == StochasticBits::kAsMany) {
        r1 = Lanes::And(x0, low_);
      } else {
        r1 = Lanes::LowHalfProduct(x0, low_half_);
      }
      Lanes::StoreBits(words.at + kPair * kLanes, x0);
    } else {
      x0 = state0.x = Next(state0.x);
      x1 = state1.x = Next(state1.x);
      r0 = Placed(x0);
      r1 = Placed(x1);
      if constexpr (kSource == RandomSource::kKeptStates) {
        const V upper = Lanes::And(x0, Lanes::SetBits(kTop));
        Lanes::StoreBits(words.at + kPair * kLanes, Lanes::Or(upper, Lanes::ShiftRight(x1, 16)));
      }
    }
    s0 = Rounded(t0, r0, s0, a0, b, x0, doubt);
    s1 = Rounded(t1, r1, s1, a1, b, x1, doubt);
  }
  Doubt None() const { return {Lanes::Set(0)}; }
  bool IsInDoubt(const Doubt& doubt) const {
    return Lanes::AnyZeroBits(Lanes::AddBits(doubt.most, one_), Lanes::SetBits(~0u));
  }

 private:
  static constexpr uint32_t kTop = ~0u << (32 - kAccumulatorRandomBits);

  static V Next(V x) {
    x = Lanes::Xor(x, Lanes::ShiftLeft(x, 13));
    x = Lanes::Xor(x, Lanes::ShiftRight(x, 17));
    return Lanes::Xor(x, Lanes::ShiftLeft(x, 5));
  }
  static V Recalled(const uint32_t* to) {
    constexpr int kStep = RandomHistory::kStepWords;
    const auto at = [&](int lag) { return Lanes::LoadBits(to - lag * kStep); };
    const V x = Lanes::Xor(at(kLongestLag), at(kShorterLags[0]), at(kShorterLags[1]));
    return Lanes::Xor(x, at(kShorterLags[2]), at(kShorterLags[3]));
  }
  V Placed(V x) const {
    if constexpr (kBits == StochasticBits::kMore) x = Lanes::And(x, Lanes::SetBits(kTop));
    return Lanes::ShiftRightBy(x, shift_);
  }
  // t = s + a b, cut to 24 bits.
  V Rounded(V t, V r, V s, V a, V b, V x, Doubt& doubt) const {
    const V sum = Lanes::AddBits(t, r);
    if constexpr (kGuess) {
      doubt.most = Lanes::MaxBits(doubt.most, Lanes::Or(sum, keep_));
    } else if constexpr (kBits == StochasticBits::kFewer) {
      if (__builtin_expect(Lanes::AnyZeroBits(Lanes::AddBits(sum, one_), low_), 0)) {
        return Exactly(s, a, b, x);
      }
    }
    return Lanes::And(sum, keep_);
  }
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
  V low_, keep_, one_, shift_, low_half_;
};

LOWPREC_END_NAMESPACE

#endif  // TF_LOWPREC_CC_KERNELS_STOCHASTIC_STEP_H_
