// AdaComp's arithmetic, element by element (Chen et al., 2018): which elements of a gradient are
// sent.
#ifndef TF_LOWPREC_CC_NUMERICS_ADACOMP_SELECT_H_
#define TF_LOWPREC_CC_NUMERICS_ADACOMP_SELECT_H_

#include <cmath>
#include <cstdint>
#include <cstring>

#include "cc/numerics/macros.h"

LOWPREC_BEGIN_NAMESPACE

// |x| as an integer: ordered as |x| is, with inf and then NaN above all numbers.
LOWPREC_HD uint32_t MagnitudeBits(float x) {
  uint32_t bits;
  memcpy(&bits, &x, sizeof(bits));
  return bits & 0x7FFFFFFFu;
}

LOWPREC_HD bool IsFiniteMagnitude(uint32_t bits) { return bits < 0x7F800000u; }

// H = residue + t dW, rounded once; for t = 2 G + dW. May be infinite.
template <bool kTwice>
LOWPREC_HD float LookAhead(float g, float dw, float residue, float t) {
  return kTwice ? g + dw : fmaf(t, dw, residue);
}

// Whether |H| >= the greatest |G| of the bin, and G != 0.
LOWPREC_HD bool IsSent(float g, float h, uint32_t highest) {
  return MagnitudeBits(h) >= highest && MagnitudeBits(g) != 0;
}

// The residue of an element that is sent: G - sign(G) scale.
LOWPREC_HD float ResidueOfSent(float g, float scale) { return g - copysignf(scale, g); }

// The mean of the bins' maxima, given their float64 sum in the bins' order.
LOWPREC_HD float MeanOfMaxima(double sum, int64_t num_bins) {
  return num_bins == 0 ? 0.0f : static_cast<float>(sum / static_cast<double>(num_bins));
}

LOWPREC_END_NAMESPACE

#endif  // TF_LOWPREC_CC_NUMERICS_ADACOMP_SELECT_H_
