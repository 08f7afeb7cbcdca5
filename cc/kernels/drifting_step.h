// The step of sums whose scale drifts (drifting_scale.h).
#ifndef TF_LOWPREC_CC_KERNELS_DRIFTING_STEP_H_
#define TF_LOWPREC_CC_KERNELS_DRIFTING_STEP_H_

#include "cc/kernels/accumulation_steps.h"
#include "cc/kernels/drifting_scale.h"

LOWPREC_BEGIN_NAMESPACE

// Of two sums at a time: that finds the pipes of Zen 3 free more often.
struct DriftingStep : SureStep {
  using Lanes = FloatLanes;
  using V = Lanes::Vector;
  using Careful = DriftingStep;
  // Adds sums, `scale` taking them out of theirs, to totals, which have none.
  struct Chunk {
    explicit Chunk(const AccumulatorSpec& spec) : step(spec) {}
    void Add(float* total, V sum, V scale) const {
      Lanes::Store(total, step.Rounded(Lanes::Fma(sum, scale, Lanes::Load(total))));
    }
    NearestStep<Lanes, NearestMethod::kScaled, false> step;
  };
  static constexpr bool kDrifts = true;

  explicit DriftingStep(const DriftingScale& drift) : period(drift.period) {
    const float factor = 1 - PowerOfTwo(-drift.drop);
    const float up = PowerOfTwo(drift.drop * drift.period);
    factor_ = Lanes::Set(factor);
    Lanes::Store(up_, Lanes::Set(up));
    Lanes::Store(up_factor_, Lanes::Set(up * factor));
  }

  // kUp: the last step of a period.
  template <bool kUp>
  void RoundPair(V& s0, V& s1, V a0, V a1, V b) const {
    const V t0 = Lanes::Fma(a0, b, s0), t1 = Lanes::Fma(a1, b, s1);
    if constexpr (kUp) {
      const V factor = Lanes::Load(up_factor_), up = Lanes::Load(up_);
      s0 = Lanes::Sub(Lanes::Product(t0, up), Lanes::Product(t0, factor));
      s1 = Lanes::Sub(Lanes::Product(t1, up), Lanes::Product(t1, factor));
    } else {
      s0 = Lanes::Sub(t0, Lanes::Product(t0, factor_));
      s1 = Lanes::Sub(t1, Lanes::Product(t1, factor_));
    }
  }

  const int64_t period;

 private:
  V factor_;
  alignas(64) float up_[Lanes::kLanes], up_factor_[Lanes::kLanes];
};

LOWPREC_END_NAMESPACE

#endif  // TF_LOWPREC_CC_KERNELS_DRIFTING_STEP_H_
