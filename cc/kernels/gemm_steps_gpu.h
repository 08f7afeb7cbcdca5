// A thread's form of the steps of accumulation_steps.h: s to round(s + a b), for operands on which
// ChoosePath found it right. Where rounding to nearest may not be done twice, the FMA is rounded to
// odd in float32: a GPU has FMAs of every rounding mode.
#ifndef TF_LOWPREC_CC_KERNELS_GEMM_STEPS_GPU_H_
#define TF_LOWPREC_CC_KERNELS_GEMM_STEPS_GPU_H_

#include "cc/kernels/accumulation_path.h"
#include "cc/kernels/gpu_shim.h"
#include "cc/numerics/accumulate.h"

LOWPREC_BEGIN_NAMESPACE

#if defined(__CUDACC__)
LOWPREC_DEVICE float Fma(float a, float b, float c) { return __fmaf_rn(a, b, c); }
LOWPREC_DEVICE float FmaTowardZero(float a, float b, float c) { return __fmaf_rz(a, b, c); }
LOWPREC_DEVICE float AddTowardZero(float a, float b) { return __fadd_rz(a, b); }
LOWPREC_DEVICE float FmaDown(float a, float b, float c) { return __fmaf_rd(a, b, c); }
LOWPREC_DEVICE float FmaUp(float a, float b, float c) { return __fmaf_ru(a, b, c); }
#else
// x rounded to float32 in a direction. x was rounded to odd in 53 bits, which is as good as exact.
template <typename Beyond>
inline float RoundedUnless(double x, float toward, Beyond beyond) {
  const float nearest = static_cast<float>(x);
  return beyond(static_cast<double>(nearest)) ? nextafterf(nearest, toward) : nearest;
}
inline double FmaOdd(float a, float b, float c) {
  return AddToOdd(static_cast<double>(c), static_cast<double>(a) * static_cast<double>(b));
}
inline float Fma(float a, float b, float c) { return static_cast<float>(FmaOdd(a, b, c)); }
inline float FmaTowardZero(float a, float b, float c) {
  const double x = FmaOdd(a, b, c);
  return RoundedUnless(x, 0.0f, [x](double y) { return fabs(y) > fabs(x); });
}
inline float AddTowardZero(float a, float b) { return FmaTowardZero(a, 1.0f, b); }
inline float FmaDown(float a, float b, float c) {
  const double x = FmaOdd(a, b, c);
  return RoundedUnless(x, -INFINITY, [x](double y) { return y > x; });
}
inline float FmaUp(float a, float b, float c) {
  const double x = FmaOdd(a, b, c);
  return RoundedUnless(x, INFINITY, [x](double y) { return y < x; });
}
#endif

LOWPREC_DEVICE float WithBits(float x, uint32_t bits) {
  return FromBits<float>(ToBits<float>(x) | bits);
}

// a b + c rounded to odd: of the neighbours, which differ in their last bit, the odd one. (An exact
// 0 is -0 rounded down: then both are even.)
LOWPREC_DEVICE float FmaToOdd(float a, float b, float c) {
  const float down = FmaDown(a, b, c), up = FmaUp(a, b, c);
  return (ToBits<float>(down) & 1) != 0 ? down : up;
}

struct NoRandomState {};

template <bool kUnderflowing, bool kToOdd>
struct GpuNearestStep {
  using State = NoRandomState;
  static constexpr bool kUnderflow = kUnderflowing;

  LOWPREC_DEVICE explicit GpuNearestStep(const AccumulatorSpec& spec)
      : drop_(23 - spec.mantissa_bits),
        scale_(PowerOfTwo(drop_)),
        lowest_(PowerOfTwo(FloatMinExponent(AccumulatorFormat(spec)))) {}

  LOWPREC_DEVICE float Round(float s, float a, float b, State&) const {
    return RoundOnce<kUnderflow, kToOdd>(s, a, b);
  }
  // Chunks' sums have too many bits for more than that.
  LOWPREC_DEVICE float AddChunk(float total, float sum, State&) const {
    return RoundOnce<true, true>(total, sum, 1.0f);
  }

 private:
  template <bool kLow, bool kOdd>
  LOWPREC_DEVICE float RoundOnce(float s, float a, float b) const {
    const float t = kOdd ? FmaToOdd(a, b, s) : Fma(a, b, s);
    constexpr uint32_t kSign = 0x80000000u, kExponent = 0x7F800000u;
    if constexpr (kLow) {
      float big = FromBits<float>(ToBits<float>(t) & kExponent);
      big = big > lowest_ ? big : lowest_;
      big =
          FromBits<float>(ToBits<float>(big) + ((static_cast<uint32_t>(drop_) << 23) | (1u << 22)));
      return WithBits((t + big) - big, ToBits<float>(t) & kSign);
    }
    // Adding 2^drop times t's own power of two leaves no room for more bits.
    const float power = FromBits<float>(ToBits<float>(t) & (kExponent | kSign));
    return Fma(power, -scale_, Fma(power, scale_, t));
  }

  const int drop_;
  const float scale_, lowest_;
};

struct GpuFmaStep {
  using State = NoRandomState;
  static constexpr bool kUnderflow = false;
  LOWPREC_DEVICE explicit GpuFmaStep(const AccumulatorSpec&) {}
  LOWPREC_DEVICE float Round(float s, float a, float b, State&) const { return Fma(a, b, s); }
  LOWPREC_DEVICE float AddChunk(float total, float sum, State&) const {
    return Fma(sum, 1.0f, total);
  }
};

template <bool kUnderflowing>
struct GpuTruncateStep {
  using State = NoRandomState;
  static constexpr bool kUnderflow = kUnderflowing;

  LOWPREC_DEVICE explicit GpuTruncateStep(const AccumulatorSpec& spec)
      : keep_(~((1u << (23 - spec.mantissa_bits)) - 1)),
        lowest_(PowerOfTwo(FloatMinExponent(AccumulatorFormat(spec)))),
        big_(FromBits<float>(ToBits<float>(lowest_) +
                             (static_cast<uint32_t>(23 - spec.mantissa_bits) << 23))) {}

  LOWPREC_DEVICE float Round(float s, float a, float b, State&) const {
    const float t = FmaTowardZero(a, b, s);
    const uint32_t bits = ToBits<float>(t), sign = bits & 0x80000000u;
    const float cut = FromBits<float>(bits & keep_);
    if constexpr (!kUnderflow) return cut;
    // Below the lowest normal binade, to multiples of the smallest quantum.
    const float big = WithBits(big_, sign);
    const float low = WithBits(AddTowardZero(t, big) - big, sign);
    return FromBits<float>(bits & 0x7FFFFFFFu) < lowest_ ? low : cut;
  }
  LOWPREC_DEVICE float AddChunk(float total, float sum, State& state) const {
    return Round(total, sum, 1.0f, state);
  }

 private:
  const uint32_t keep_;
  const float lowest_, big_;
};

// Of StochasticStep: what is cut matters.
#if defined(__CUDACC__)
__device__ __noinline__
#endif
    inline float StochasticStepExactly(float s, float a, float b, uint32_t r,
                                       AccumulatorSpec spec) {
  const FloatRounder<double> rounder =
      MakeFloatRounder<double>(AccumulatorFormat(spec), Rounding::kStochastic);
  return AccumulateStep<Rounding::kStochastic, false>(s, a, b, rounder, r);
}

// kFewBits: the truncated sum has fewer bits below the last place than there are random bits. What
// is cut of both matters only where the sum of what is left is all ones there.
template <bool kFewBits>
struct GpuStochasticStep {
  using State = uint32_t;
  static constexpr bool kUnderflow = false;

  LOWPREC_DEVICE explicit GpuStochasticStep(const AccumulatorSpec& of)
      : spec(of), drop_(23 - of.mantissa_bits), low_((1u << drop_) - 1) {}

  LOWPREC_DEVICE float Round(float s, float a, float b, State& state) const {
    state = NextRandomState(state);
    constexpr uint32_t kTop = ~0u << (32 - kAccumulatorRandomBits);
    const uint32_t r = (kFewBits ? state : state & kTop) >> (32 - drop_);
    const uint32_t sum = ToBits<float>(FmaTowardZero(a, b, s)) + r;
    if (kFewBits && ((sum + 1) & low_) == 0) {
      return StochasticStepExactly(s, a, b, state >> (32 - kAccumulatorRandomBits), spec);
    }
    return FromBits<float>(sum & ~low_);
  }
  LOWPREC_DEVICE float AddChunk(float total, float sum, State& state) const {
    return Round(total, sum, 1.0f, state);
  }

 private:
  const AccumulatorSpec& spec;
  const int drop_;
  const uint32_t low_;
};

LOWPREC_END_NAMESPACE

#endif  // TF_LOWPREC_CC_KERNELS_GEMM_STEPS_GPU_H_
