// Stream ids: the upper half of Philox's counter. Two roundings that share a seed differ in their
// stream, so that their random numbers are independent. tf_lowprec/ops/streams.py mirrors this.
#ifndef TF_LOWPREC_CC_NUMERICS_STREAMS_H_
#define TF_LOWPREC_CC_NUMERICS_STREAMS_H_

#include <cstdint>

#include "cc/numerics/macros.h"

LOWPREC_BEGIN_NAMESPACE

enum class Stream : uint32_t {
  kQuantize = 0,  // lp.quantize by itself
  kForwardLhs = 1,
  kForwardRhs = 2,
  kForwardOutput = 3,
  kBackwardLhs = 4,
  kBackwardRhs = 5,
  kBackwardOutput = 6,
  kGradientLhs = 7,
  kGradientRhs = 8,
  kGradientOutput = 9,
  kForwardAccumulator = 10,
  kBackwardAccumulator = 11,
  kGradientAccumulator = 12,
  kBias = 16,        // after the bias was added
  kActivation = 17,  // after the activation function
  kError = 18,       // the error that enters a layer's backward pass
  kBiasGradient = 19,
  kStep = 20,          // the optimizer's step; bits 32 and up: the variable's index
  kWeightUpdate = 21,  // the updated weight; bits 32 and up: the variable's index
  kSlot = 22,          // the optimizer's slots; bits 32 and up: the slot's index
  kDecayStep = 23,     // the optimizer's weight decay; bits 32 and up: the variable's index
  kDecayUpdate = 24,   // the weight after it; bits 32 and up: the variable's index
};

LOWPREC_END_NAMESPACE

#endif  // TF_LOWPREC_CC_NUMERICS_STREAMS_H_
