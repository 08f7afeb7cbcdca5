// The vector form of AccumulateStep for every path of accumulation_path.h but kExact: a step takes
// the partial sums s to round(s + a b), for operands on which ChoosePath found it right.
//
// A step that guesses is right unless IsInDoubt: the same terms are then added again by Careful,
// from the sums before. It says how many at most are to be added before it is asked. Chunk is the
// step that adds a chunk's sum to the total.
#ifndef TF_LOWPREC_CC_KERNELS_ACCUMULATION_STEPS_H_
#define TF_LOWPREC_CC_KERNELS_ACCUMULATION_STEPS_H_

#include <type_traits>

#include "cc/kernels/accumulation_path.h"
#include "cc/kernels/float_lanes.h"
#include "cc/kernels/float_mode.h"
#include "cc/numerics/accumulate.h"

LOWPREC_BEGIN_NAMESPACE

struct NoState {};
struct RandomState {
  FloatLanes::Vector x;
};

template <typename Step>
struct ChunkStep {
  using L = typename Step::Lanes;
  explicit ChunkStep(const AccumulatorSpec& spec) : step(spec) {}
  void Add(float* total, typename L::Vector sum, typename Step::State& state) const {
    typename L::Vector doubt = L::Set(0);
    L::Store(total, step.template Round<0>(L::Load(total), sum, L::Set(1), state, doubt));
  }
  Step step;
};

// How a sum t is rounded to m bits, to nearest even. d = M - m, M the mantissa bits of the lanes.
enum class NearestMethod {
  // With y = 2^d t: y - (y - t). Let t's exponent be e. If y - t reaches 2^(e+d), it is rounded to
  // a multiple of t's last place 2^(e-m), as y is; on a tie t ends in zeros, so that y is an even
  // one. It does not where t is less than 2^(e-d+1) above 2^e: there it is rounded to halves of the
  // last place, and t to 2^e all the same, being within a quarter if 2 m + 3 <= M.
  kScaled,
  // With y = 2^d times t's own power of two: (t + y) - y. Any m.
  kExponent,
  // The same where sums may lie below the lowest normal binade: their y is that of the binade.
  kUnderflow,
};

constexpr bool AllowsScaled(int lanes_mantissa_bits, int mantissa_bits) {
  return 2 * mantissa_bits + 3 <= lanes_mantissa_bits;
}

template <bool kUnderflow>
struct NearestChunkStep;

// With kMasked, a NaN among the operands means: leave the sum as it is. With kUnderflow only: where
// sums cannot be -0, adding 0 does the same.
template <typename L, NearestMethod kMethod, bool kToOdd, bool kMasked = false>
struct NearestStep {
  using Lanes = L;
  using V = typename L::Vector;
  using Bits = typename L::Bits;
  using State = NoState;
  using Careful = NearestStep;
  static constexpr int kGuesses = 0;
  static constexpr bool kTowardZero = false;
  static constexpr bool kUnderflow = kMethod == NearestMethod::kUnderflow;
  static constexpr bool kOneRounding = kToOdd || L::kMantissaBits == 52;
  using Chunk = std::conditional_t<kOneRounding || kMethod == NearestMethod::kScaled,
                                   ChunkStep<NearestStep>, NearestChunkStep<kUnderflow>>;
  // Two sums in step find the pipes of Zen 3 free more often (AVX2; not tried with AVX-512).
  static constexpr bool kPairs =
      kMethod == NearestMethod::kScaled && !kToOdd && L::kLanes == 8 && L::kMantissaBits == 23;

  explicit NearestStep(const AccumulatorSpec& spec) {
    const Bits drop = static_cast<Bits>(L::kMantissaBits - spec.mantissa_bits);
    const Bits sign = Bits{1} << (sizeof(Bits) * 8 - 1);
    const Bits exponent = (sign - 1) & ~((Bits{1} << L::kMantissaBits) - 1);
    sign_ = L::SetBits(sign);
    keep_ = L::SetBits(kUnderflow ? exponent : exponent | sign);
    // With kUnderflow 1.5 times as much is added, so that it need not have the sum's sign.
    shift_ = L::SetBits((drop << L::kMantissaBits) |
                        (kUnderflow ? Bits{1} << (L::kMantissaBits - 1) : Bits{0}));
    scale_ = L::SetBits((static_cast<Bits>(L::kMantissaBits == 23 ? 127 : 1023) + drop)
                        << L::kMantissaBits);
    lowest_ = L::Set(PowerOfTwo(FloatMinExponent(AccumulatorFormat(spec))));
  }

  template <int kIndex>
  V Round(V s, V a, V b, State&, V&) const {
    V t;
    if constexpr (kToOdd) {
      t = L::FmaToOdd(a, b, s);
    } else {
      t = L::Fma(a, b, s);
    }
    if constexpr (kMethod == NearestMethod::kScaled) {
#if defined(__AVX2__)
      // Zen has as many multipliers as adders: some sums take the former.
      if constexpr (kIndex % 4 == 0) {
        return L::ProductMinus(t, scale_, L::ProductMinus(t, scale_, t));
      }
#endif
      const V y = L::AddBits(t, shift_);
      return L::Sub(y, L::Sub(y, t));
    }
    V big = L::And(t, keep_);
    if constexpr (kUnderflow) {
      big = L::AddBits(L::Max(big, lowest_), shift_);
      const V rounded = L::OrAnd(L::Sub(L::Add(t, big), big), t, sign_);
      if constexpr (kMasked) return L::IfNan(t, s, rounded);
      return rounded;
    }
#if defined(__AVX512F__)
    constexpr bool kMultiplies = kIndex % 5 < 3;
#elif defined(__AVX2__)
    constexpr bool kMultiplies = true;
#else
    constexpr bool kMultiplies = false;
#endif
    if constexpr (kMultiplies) {
      return L::SubtractProduct(big, scale_, L::Fma(big, scale_, t));
    }
    big = L::AddBits(big, shift_);
    return L::Sub(L::Add(t, big), big);
  }

  // Round of two sums.
  void RoundPair(V& s0, V& s1, V a0, V a1, V b, V&) const {
    const V t0 = L::Fma(a0, b, s0), t1 = L::Fma(a1, b, s1);
    const V y0 = L::AddBits(t0, shift_), y1 = L::AddBits(t1, shift_);
    const V above0 = L::Sub(y0, t0), above1 = L::Sub(y1, t1);
    s0 = L::Sub(y0, above0);
    s1 = L::Sub(y1, above1);
  }

 private:
  V keep_, shift_, scale_, lowest_, sign_;
};

// Steps for sums that may lie below the lowest normal binade.
template <bool kMasked>
using LowFloatStep = NearestStep<FloatLanes, NearestMethod::kUnderflow, false, kMasked>;
template <bool kMasked>
using LowDoubleStep = NearestStep<DoubleLanes, NearestMethod::kUnderflow, false, kMasked>;

// Rounding the sum of two numbers of m + 1 bits to W bits first is innocuous if W >= 2 (m + 1) + 1
// (Figueroa, "When is double rounding innocuous?", 1995): float32 up to m = 10, then float64.
template <bool kUnderflow>
struct NearestChunkStep {
  explicit NearestChunkStep(const AccumulatorSpec& spec)
      : in_float(kUnderflow && spec.mantissa_bits <= 10), narrow(spec), wide(spec) {}
  void Add(float* total, FloatLanes::Vector sum, NoState& state) const {
    if (in_float) return narrow.Add(total, sum, state);
    alignas(64) float sums[FloatLanes::kLanes];
    FloatLanes::Store(sums, sum);
    for (int i = 0; i < FloatLanes::kLanes; i += DoubleLanes::kLanes) {
      wide.Add(total + i, DoubleLanes::Load(sums + i), state);
    }
  }
  bool in_float;
  ChunkStep<LowFloatStep<false>> narrow;
  ChunkStep<std::conditional_t<kUnderflow, LowDoubleStep<false>,
                               NearestStep<DoubleLanes, NearestMethod::kScaled, false>>>
      wide;
};

// Any operands, in lanes of float64: one FMA instead of a sum to odd, which differs only where the
// FMA landed on a tie. With kUnderflow also where a sum below the lowest normal binade kept more
// bits than the format has there, which adding and subtracting 1.5 times 2^52 of its smallest
// quanta shows. (Such sums may be -0, and stay so here.)
template <bool kUnderflow>
struct GuessOddStep {
  using Lanes = DoubleLanes;
  using V = Lanes::Vector;
  using State = NoState;
  using Careful =
      NearestStep<Lanes, kUnderflow ? NearestMethod::kUnderflow : NearestMethod::kScaled, true>;
  using Chunk = typename Careful::Chunk;
  static constexpr int kGuesses = 32;
  static constexpr bool kPairs = false;
  static constexpr bool kTowardZero = false;

  explicit GuessOddStep(const AccumulatorSpec& spec) {
    const int drop = Lanes::kMantissaBits - spec.mantissa_bits;
    const int lowest = FloatMinExponent(AccumulatorFormat(spec)) - spec.mantissa_bits;
    scale_ = Lanes::Set(FromBits<double>(static_cast<uint64_t>(1023 + drop) << 52));
    below_ = Lanes::SetBits((uint64_t{1} << drop) - 1);
    half_ = Lanes::SetBits(uint64_t{1} << (drop - 1));
    grid_ = Lanes::Set(1.5 * FromBits<double>(static_cast<uint64_t>(1023 + 52 + lowest) << 52));
  }

  template <int kIndex>
  V Round(V s, V a, V b, State&, V& doubt) const {
    const V t = Lanes::Fma(a, b, s);
    doubt = Lanes::Or(doubt, Lanes::EqualBits(Lanes::And(t, below_), half_));
    const V rounded = Lanes::ProductMinus(t, scale_, Lanes::ProductMinus(t, scale_, t));
    if constexpr (kUnderflow) {
      const V on_grid = Lanes::Sub(Lanes::Add(rounded, grid_), grid_);
      doubt = Lanes::Or(doubt, Lanes::Xor(rounded, on_grid));
    }
    return rounded;
  }
  bool IsInDoubt(V doubt) const { return Lanes::AnyBit(doubt); }

 private:
  V scale_, below_, half_, grid_;
};

#if defined(__AVX2__) && !defined(__AVX512F__)
// Sums in lanes of float32 by a step of float64, half of them at a time.
template <bool kUnderflow>
struct HalvesStep {
  using Lanes = FloatLanes;
  using V = Lanes::Vector;
  using State = NoState;
  using Half = typename GuessOddStep<kUnderflow>::Careful;
  static constexpr int kGuesses = 0;
  static constexpr bool kPairs = false;
  explicit HalvesStep(const AccumulatorSpec& spec) : half(spec) {}
  template <int kIndex>
  V Round(V s, V a, V b, State& state, V&) const {
    using D = DoubleLanes;
    D::Vector none = D::Set(0);
    return D::Join(half.template Round<0>(D::Low(s), D::Low(a), D::Low(b), state, none),
                   half.template Round<0>(D::High(s), D::High(a), D::High(b), state, none));
  }
  Half half;
};

// As GuessOddStep, in lanes of float32 and where AllowsScaled does: one FMA in 2^(23 - m) lands on
// a tie by chance. With kUnderflow any sum but 0 below the lowest normal binade is in doubt: -2 t,
// of t's bits without the sign, is large as an unsigned integer where t is small, and 0 where it is
// 0.
template <bool kUnderflow>
struct GuessFloatStep {
  using Lanes = FloatLanes;
  using V = Lanes::Vector;
  using State = NoState;
  using Careful = HalvesStep<kUnderflow>;
  using Chunk = std::conditional_t<kUnderflow, NearestChunkStep<true>,
                                   ChunkStep<NearestStep<Lanes, NearestMethod::kScaled, false>>>;
  static constexpr int kGuesses = 8;
  static constexpr bool kPairs = true;
  static constexpr bool kTowardZero = false;

  explicit GuessFloatStep(const AccumulatorSpec& spec) {
    const uint32_t drop = static_cast<uint32_t>(Lanes::kMantissaBits - spec.mantissa_bits);
    const float lowest = PowerOfTwo(FloatMinExponent(AccumulatorFormat(spec)));
    scale_ = Lanes::SetBits((127 + drop) << 23);
    below_ = Lanes::SetBits((1u << drop) - 1);
    half_ = Lanes::SetBits(1u << (drop - 1));
    limit_ = Lanes::SetBits(1 - 2 * ToBits<float>(lowest));
  }

  void RoundPair(V& s0, V& s1, V a0, V a1, V b, V& doubt) const {
    using L = Lanes;
    const V t0 = L::Fma(a0, b, s0), t1 = L::Fma(a1, b, s1);
    const V above0 = L::ProductMinus(t0, scale_, t0), above1 = L::ProductMinus(t1, scale_, t1);
    const V tie0 = L::EqualBits(L::And(t0, below_), half_);
    const V tie1 = L::EqualBits(L::And(t1, below_), half_);
    s0 = L::ProductMinus(t0, scale_, above0);
    s1 = L::ProductMinus(t1, scale_, above1);
    if constexpr (kUnderflow) {
      const V small0 = L::SubBits(L::Set(0), L::AddBits(t0, t0));
      const V small1 = L::SubBits(L::Set(0), L::AddBits(t1, t1));
      doubt = L::MaxBits(doubt, L::MaxBits(L::Or(small0, tie0), L::Or(small1, tie1)));
    } else {
      doubt = L::Or(doubt, L::Or(tie0, tie1));
    }
  }
  bool IsInDoubt(V doubt) const {
    if constexpr (!kUnderflow) return Lanes::AnyBit(doubt);
    return Lanes::AnyBit(Lanes::EqualBits(Lanes::MaxBits(doubt, limit_), doubt));
  }

 private:
  V scale_, below_, half_, limit_;
};
#endif

// m = 23: float32 itself.
struct FmaStep {
  using Lanes = FloatLanes;
  using V = FloatLanes::Vector;
  using State = NoState;
  using Careful = FmaStep;
  using Chunk = ChunkStep<FmaStep>;
  static constexpr int kGuesses = 0;
  static constexpr bool kPairs = false;
  static constexpr bool kTowardZero = false;
  explicit FmaStep(const AccumulatorSpec&) {}
  template <int kIndex>
  V Round(V s, V a, V b, State&, V&) const {
    return FloatLanes::Fma(a, b, s);
  }
};

// Runs with the rounding mode toward zero: cutting what was cut already is cutting once.
template <bool kUnderflow, bool kMasked = false>
struct TruncateStep {
  using Lanes = FloatLanes;
  using V = FloatLanes::Vector;
  using State = NoState;
  using Careful = TruncateStep;
  using Chunk = ChunkStep<TruncateStep>;
  static constexpr int kGuesses = 0;
  static constexpr bool kPairs = false;
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
  V Round(V s, V a, V b, State&, V&) const {
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

// How many bits the truncated sum has below the last place, against the 16 random bits.
enum class StochasticBits { kMore, kAsMany, kFewer };

// Runs with the rounding mode toward zero. The truncated sum has `drop` = 23 - m bits below the
// last place. If these are fewer than the random bits, what is cut of both matters only where the
// sum of what is left is all ones below the last place: those vectors are done again, exactly.
template <StochasticBits kBits, bool kGuess = false>
struct StochasticStep {
  using Lanes = FloatLanes;
  using V = FloatLanes::Vector;
  using State = RandomState;
  using Careful = StochasticStep<kBits>;
  using Chunk = ChunkStep<Careful>;
  static constexpr int kGuesses = kGuess ? 16 : 0;
  static constexpr bool kPairs = false;
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
  V Round(V s, V a, V b, State& state, V& doubt) const {
    V x = state.x;
    x = Lanes::Xor(x, Lanes::ShiftLeft(x, 13));
    x = Lanes::Xor(x, Lanes::ShiftRight(x, 17));
    x = Lanes::Xor(x, Lanes::ShiftLeft(x, 5));
    state.x = x;
    if constexpr (kBits == StochasticBits::kMore) x = Lanes::And(x, top_);
    const V r = Lanes::ShiftRightBy(x, shift_);
    const V sum = Lanes::AddBits(Lanes::Fma(a, b, s), r);
    if constexpr (kGuess) {
      doubt = Lanes::MaxBits(doubt, Lanes::Or(sum, keep_));
    } else if constexpr (kBits == StochasticBits::kFewer) {
      if (__builtin_expect(Lanes::AnyZeroBits(Lanes::AddBits(sum, one_), low_), 0)) {
        return Exactly(s, a, b, x);
      }
    }
    return Lanes::And(sum, keep_);
  }
  bool IsInDoubt(V doubt) const {
    return Lanes::AnyZeroBits(Lanes::AddBits(doubt, one_), Lanes::SetBits(~0u));
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
