// The vector form of AccumulateStep for every path of accumulation_path.h but kExact (kStochastic:
// stochastic_step.h): a step takes the partial sums s to round(s + a b), for operands on which
// ChoosePath found it right.
//
// A step that guesses (kGuesses) is right unless IsInDoubt: the same terms are then added again by
// Careful, from the sums before. It says how many at most are to be added before it is asked. Chunk
// is the step that adds a chunk's sum to the total.
#ifndef TF_LOWPREC_CC_KERNELS_ACCUMULATION_STEPS_H_
#define TF_LOWPREC_CC_KERNELS_ACCUMULATION_STEPS_H_

#include <type_traits>

#include "cc/kernels/accumulation_path.h"
#include "cc/kernels/float_lanes.h"
#include "cc/kernels/random_history.h"
#include "cc/numerics/accumulate.h"

LOWPREC_BEGIN_NAMESPACE

struct NoState {};
struct RandomState {
  FloatLanes::Vector x;
};
struct NoWords {
  void Advance() {}
};
struct NextWords {
  uint32_t* at;  // those of the next term, in a RandomHistory
  void Advance() { at += RandomHistory::kStepWords; }
};
struct NoDoubt {};

// What most steps have in common.
struct SureStep {
  using State = NoState;
  using Words = NoWords;
  using Doubt = NoDoubt;
  static constexpr int kGuesses = 0;
  static constexpr bool kPairs = false, kTowardZero = false, kHasPlain = false;
  Doubt None() const { return {}; }
};

template <typename Step>
struct ChunkStep {
  using L = typename Step::Lanes;
  explicit ChunkStep(const AccumulatorSpec& spec) : step(spec) {}
  void Add(float* total, typename L::Vector sum, typename Step::State& state) const {
    typename Step::Doubt doubt = step.None();
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
  //
  // That takes two FMAs; or y by adding d to t's exponent, and two differences. Zen starts two FMAs
  // at a time, two differences, and integers' sums on any pipe that is free: with AVX2 a third of
  // the sums go the first way. In the second a t of 0 has a y, too, that then goes away; so does
  // that of a t below the lowest normal number, as t is a multiple of y's last place. (-0 would
  // lose its sign; sums, which start at 0, are never -0.)
  kScaled,
  // The same for any m < M, with y = (2^d + 1) t, rounded: Veltkamp's splitting (Dekker, 1971). By
  // trying every t (accumulation_path_test), ties go to the even one here too.
  kVeltkamp,
  // The same where sums may lie below the lowest normal binade: their y is that of the binade.
  kUnderflow,
};

template <bool kUnderflow>
struct NearestChunkStep;

// With kMasked, a NaN among the operands means: leave the sum as it is. With kUnderflow only: where
// sums cannot be -0, adding 0 does the same.
template <typename L, NearestMethod kMethod, bool kToOdd, bool kMasked = false>
struct NearestStep : SureStep {
  using Lanes = L;
  using V = typename L::Vector;
  using Bits = typename L::Bits;
  using Careful = NearestStep;
  static constexpr bool kUnderflow = kMethod == NearestMethod::kUnderflow;
  static constexpr bool kOneRounding = kToOdd || L::kMantissaBits == 52;
  using Chunk = std::conditional_t<kOneRounding || kMethod == NearestMethod::kScaled,
                                   ChunkStep<NearestStep>, NearestChunkStep<kUnderflow>>;
  // Two sums in step find the pipes of Zen free more often: with AVX2, and of kScaled with AVX-512.
  static constexpr bool kPairs = !kUnderflow && !kToOdd &&
                                 (sizeof(V) == 32 || (sizeof(V) == 64 && sizeof(Bits) == 4 &&
                                                      kMethod == NearestMethod::kScaled));

  explicit NearestStep(const AccumulatorSpec& spec) {
    const Bits drop = static_cast<Bits>(L::kMantissaBits - spec.mantissa_bits);
    const Bits sign = Bits{1} << (sizeof(Bits) * 8 - 1);
    const Bits exponent = (sign - 1) & ~((Bits{1} << L::kMantissaBits) - 1);
    sign_ = L::SetBits(sign);
    exponent_ = L::SetBits(exponent);
    drop_ = L::SetBits(drop << L::kMantissaBits);
    // 1.5 times as much is added, so that it need not have the sum's sign.
    shift_ = L::SetBits((drop << L::kMantissaBits) + (Bits{1} << (L::kMantissaBits - 1)));
    static_assert(kMethod != NearestMethod::kVeltkamp || L::kMantissaBits == 23,
                  "tried in float32 alone");
    const float power = PowerOfTwo(static_cast<int>(drop));
    scale_ = L::Set(kMethod == NearestMethod::kVeltkamp ? power + 1 : power);
    lowest_ = L::Set(PowerOfTwo(FloatMinExponent(AccumulatorFormat(spec))));
  }

  template <int kIndex>
  V Round(V s, V a, V b, State&, Doubt&) const {
    V t;
    if constexpr (kToOdd) {
      t = L::FmaToOdd(a, b, s);
    } else {
      t = L::Fma(a, b, s);
    }
    if constexpr (kUnderflow) {
      const V big = L::AddBits(L::Max(L::And(t, exponent_), lowest_), shift_);
      const V rounded = L::OrAnd(L::Sub(L::Add(t, big), big), t, sign_);
      if constexpr (kMasked) return L::IfNan(t, s, rounded);
      return rounded;
    }
    if constexpr (ByFma(!kToOdd && kIndex % 3 == 0)) {
      return L::ProductMinus(t, scale_, L::ProductMinus(t, scale_, t));
    } else {
      return Rounded(t);
    }
  }
  V Rounded(V t) const {
    const V y = Scaled(t);
    return L::Sub(y, L::Sub(y, t));
  }

  // Round of two sums.
  template <int kPair>
  void RoundPair(V& s0, V& s1, V a0, V a1, V b, State&, State&, Words, Doubt&) const {
    const V t0 = L::Fma(a0, b, s0), t1 = L::Fma(a1, b, s1);
    if constexpr (ByFma(kPair < 2)) {  // of six
      const V above0 = L::ProductMinus(t0, scale_, t0), above1 = L::ProductMinus(t1, scale_, t1);
      s0 = L::ProductMinus(t0, scale_, above0);
      s1 = L::ProductMinus(t1, scale_, above1);
    } else {
      const V y0 = Scaled(t0), y1 = Scaled(t1);
      const V above0 = L::Sub(y0, t0), above1 = L::Sub(y1, t1);
      s0 = L::Sub(y0, above0);
      s1 = L::Sub(y1, above1);
    }
  }

 private:
  static constexpr bool ByFma(bool wanted) {
    return wanted && kHasFma && kMethod == NearestMethod::kScaled;
  }
  V Scaled(V t) const {  // y
    if constexpr (kMethod == NearestMethod::kVeltkamp || !kHasFma) {
      return L::Product(t, scale_);
    } else {
      return L::AddFixedBits(t, drop_);
    }
  }
  V exponent_, shift_, scale_, lowest_, sign_, drop_;
};

// Steps for sums that may lie below the lowest normal binade.
template <bool kMasked>
using LowFloatStep = NearestStep<FloatLanes, NearestMethod::kUnderflow, false, kMasked>;
template <bool kMasked>
using LowDoubleStep = NearestStep<DoubleLanes, NearestMethod::kUnderflow, false, kMasked>;

// Rounding the sum of two numbers of m + 1 bits to W bits first is innocuous if W >= 2 (m + 1) + 1
// (Figueroa, "When is double rounding innocuous?", 1995): float32 up to m = 10, then float64. Where
// float32 holds the sum, which is most often, it is enough too.
template <bool kUnderflow>
struct NearestChunkStep {
  using V = FloatLanes::Vector;
  explicit NearestChunkStep(const AccumulatorSpec& spec)
      : in_float(kUnderflow && spec.mantissa_bits <= 10), narrow(spec), wide(spec) {}
  void Add(float* total, V sum, NoState& state) const {
    if (in_float || IsExact(FloatLanes::Load(total), sum)) return narrow.Add(total, sum, state);
    alignas(64) float sums[FloatLanes::kLanes];
    FloatLanes::Store(sums, sum);
    for (int i = 0; i < FloatLanes::kLanes; i += DoubleLanes::kLanes) {
      wide.Add(total + i, DoubleLanes::Load(sums + i), state);
    }
  }
  // Whether float32 holds a + b: the difference of the sum and the larger is not rounded.
  static bool IsExact(V a, V b) {
    const V sum = FloatLanes::Add(a, b);
    return FloatLanes::AllEqual(FloatLanes::Sub(sum, a), b, FloatLanes::Sub(sum, b), a);
  }
  using Narrow = std::conditional_t<kUnderflow, LowFloatStep<false>,
                                    NearestStep<FloatLanes, NearestMethod::kVeltkamp, false>>;
  using Wide = std::conditional_t<kUnderflow, LowDoubleStep<false>,
                                  NearestStep<DoubleLanes, NearestMethod::kScaled, false>>;
  bool in_float;
  ChunkStep<Narrow> narrow;
  ChunkStep<Wide> wide;
};

// What steps have in common that guess from a sum t rounded to the lanes' bits. In doubt is whether
// any t was a tie of m bits; and, with kLow, whether any but 0 was below the lowest normal binade.
// Tie: its bits below the last place, shifted to the top, are the least signed integer. Low: so is
// 2 t, of t's bits without the sign, less one and with the top bit flipped, or little more.
template <typename L, bool kLow>
struct GuessStep : SureStep {
  using Lanes = L;
  using V = typename L::Vector;
  using Bits = typename L::Bits;
  struct Doubt {
    V tie, low;
  };

  explicit GuessStep(const AccumulatorSpec& spec)
      : shift_(kSize - L::kMantissaBits + spec.mantissa_bits) {
    const int lowest = FloatMinExponent(AccumulatorFormat(spec));
    const Bits exponent = static_cast<Bits>(lowest + (kSize == 64 ? 1023 : 127));
    scale_ = L::Set(PowerOfTwo(L::kMantissaBits - spec.mantissa_bits));
    most_ = L::SetBits(kLeast - 1);
    // Of float64 the high half alone may count.
    tie_ = L::SetBits(kLeast + (Bits{1} << (kSize == 64 ? 32 : 0)));
    low_ = L::SetBits((exponent << (L::kMantissaBits + 1)) + kLeast);
  }
  Doubt None() const { return {most_, most_}; }
  void Look(V t, Doubt& doubt) const {
    doubt.tie = L::MinBits(doubt.tie, L::ShiftLeft(t, shift_));
    if constexpr (kLow) {
      doubt.low = L::MinBits(doubt.low, L::AddBits(L::AddBits(t, t), most_));
    }
  }
  bool IsInDoubt(const Doubt& doubt) const {
    return L::AnyLess(doubt.tie, tie_) || (kLow && L::AnyLess(doubt.low, low_));
  }

 private:
  static constexpr int kSize = 8 * sizeof(Bits);
  static constexpr Bits kLeast = Bits{1} << (kSize - 1);  // as a signed integer
  int shift_;
  V most_, tie_, low_;

 protected:
  V scale_;
};

// Any operands, in lanes of float64: one FMA instead of a sum to odd, which differs only where the
// FMA landed on a tie. With kUnderflow sums below the lowest normal binade, which have fewer bits,
// are in doubt too.
template <bool kUnderflow>
struct GuessOddStep : GuessStep<DoubleLanes, kUnderflow> {
  using Base = GuessStep<DoubleLanes, kUnderflow>;
  using Base::Base;
  using L = DoubleLanes;
  using V = L::Vector;
  using Careful =
      NearestStep<L, kUnderflow ? NearestMethod::kUnderflow : NearestMethod::kScaled, true>;
  using Chunk = typename Careful::Chunk;
  static constexpr int kGuesses = 32;

  template <int kIndex>
  V Round(V s, V a, V b, NoState&, typename Base::Doubt& doubt) const {
    const V t = L::Fma(a, b, s);
    this->Look(t, doubt);
    return L::ProductMinus(t, this->scale_, L::ProductMinus(t, this->scale_, t));
  }
};

#if defined(__AVX2__) && !defined(__AVX512F__)
// Sums in lanes of float32 by a step of float64, half of them at a time.
template <bool kUnderflow>
struct HalvesStep : SureStep {
  using Lanes = FloatLanes;
  using V = Lanes::Vector;
  using Half = typename GuessOddStep<kUnderflow>::Careful;
  explicit HalvesStep(const AccumulatorSpec& spec) : half(spec) {}
  template <int kIndex>
  V Round(V s, V a, V b, State& state, Doubt& none) const {
    using D = DoubleLanes;
    return D::Join(half.template Round<0>(D::Low(s), D::Low(a), D::Low(b), state, none),
                   half.template Round<0>(D::High(s), D::High(a), D::High(b), state, none));
  }
  Half half;
};

// As GuessOddStep, in lanes of float32 and where AllowsScaled does: one FMA in 2^(23 - m) lands on
// a tie by chance.
template <bool kUnderflow>
struct GuessFloatStep : GuessStep<FloatLanes, kUnderflow> {
  using Base = GuessStep<FloatLanes, kUnderflow>;
  using Base::Base;
  using L = FloatLanes;
  using V = L::Vector;
  using Careful = HalvesStep<kUnderflow>;
  using Chunk = std::conditional_t<kUnderflow, NearestChunkStep<true>,
                                   ChunkStep<NearestStep<L, NearestMethod::kScaled, false>>>;
  static constexpr int kGuesses = 8;
  static constexpr bool kPairs = true;

  template <int kPair>
  void RoundPair(V& s0, V& s1, V a0, V a1, V b, NoState&, NoState&, NoWords,
                 typename Base::Doubt& doubt) const {
    const V scale = this->scale_;
    const V t0 = L::Fma(a0, b, s0), t1 = L::Fma(a1, b, s1);
    const V above0 = L::ProductMinus(t0, scale, t0), above1 = L::ProductMinus(t1, scale, t1);
    this->Look(t0, doubt);
    this->Look(t1, doubt);
    s0 = L::ProductMinus(t0, scale, above0);
    s1 = L::ProductMinus(t1, scale, above1);
  }
};
#endif

#if defined(__AVX2__)
// Where a choice is float_for_few: kVeltkamp, in doubt where t is not exact and a b no smaller than
// s. Then a b - t is exact and not -s. If a b is smaller it is -s, but for few cases. `plain` is
// for terms of which accumulation_path.h says that it is right.
struct CheckedStep : SureStep {
  using Lanes = FloatLanes;
  using V = Lanes::Vector;
#if defined(__AVX512F__)
  using Careful = NearestStep<Lanes, NearestMethod::kVeltkamp, true>;
#else
  using Careful = HalvesStep<false>;
#endif
  using Chunk = NearestChunkStep<false>;
  using Plain = NearestStep<Lanes, NearestMethod::kVeltkamp, false>;
  static constexpr int kGuesses = 16;
  static constexpr bool kHasPlain = true;
  struct Doubt {
    V differs;
  };

  explicit CheckedStep(const AccumulatorSpec& spec) : plain(spec) {}
  Doubt None() const { return {Lanes::Set(0)}; }
  bool IsInDoubt(const Doubt& doubt) const { return Lanes::AnyBits(doubt.differs); }

  template <int kIndex>
  V Round(V s, V a, V b, State&, Doubt& doubt) const {
    const V t = Lanes::Fma(a, b, s);
    doubt.differs = Lanes::Or(doubt.differs, Lanes::Add(s, Lanes::ProductMinus(a, b, t)));
    return plain.Rounded(t);
  }

  const Plain plain;
};
#endif

// m = 23: float32 itself.
struct FmaStep : SureStep {
  using Lanes = FloatLanes;
  using V = FloatLanes::Vector;
  using Careful = FmaStep;
  using Chunk = ChunkStep<FmaStep>;
  explicit FmaStep(const AccumulatorSpec&) {}
  template <int kIndex>
  V Round(V s, V a, V b, State&, Doubt&) const {
    return FloatLanes::Fma(a, b, s);
  }
};

// Runs with the rounding mode toward zero: cutting what was cut already is cutting once.
template <bool kUnderflow, bool kMasked = false>
struct TruncateStep : SureStep {
  using Lanes = FloatLanes;
  using V = FloatLanes::Vector;
  using Careful = TruncateStep;
  using Chunk = ChunkStep<TruncateStep>;
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
  V Round(V s, V a, V b, State&, Doubt&) const {
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

LOWPREC_END_NAMESPACE

#endif  // TF_LOWPREC_CC_KERNELS_ACCUMULATION_STEPS_H_
