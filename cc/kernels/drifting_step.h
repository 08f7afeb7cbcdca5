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
  using Chunk = NearestStep<Lanes, NearestMethod::kScaled, false>::Chunk;
  static constexpr bool kDrifts = true;

  explicit DriftingStep(const DriftingScale& drift) : period(drift.period) {
    const float factor = 1 - PowerOfTwo(-drift.drop);
    const float up = PowerOfTwo(drift.drop * drift.period);
    factor_ = Lanes::Set(factor);
    up_ = Lanes::Set(up);
    up_factor_ = Lanes::Set(up * factor);
  }

  // kUp: the last step of a period.
  template <bool kUp>
  void RoundPair(V& s0, V& s1, V a0, V a1, V b) const {
    const V t0 = Lanes::Fma(a0, b, s0), t1 = Lanes::Fma(a1, b, s1);
    const V factor = kUp ? up_factor_ : factor_;
    const V y0 = Lanes::Product(t0, factor), y1 = Lanes::Product(t1, factor);
    s0 = Lanes::Sub(kUp ? Lanes::Product(t0, up_) : t0, y0);
    s1 = Lanes::Sub(kUp ? Lanes::Product(t1, up_) : t1, y1);
  }

  const int64_t period;

 private:
  V factor_, up_, up_factor_;
};

LOWPREC_END_NAMESPACE

#endif  // TF_LOWPREC_CC_KERNELS_DRIFTING_STEP_H_
