// What cc/numerics/aligned.h needs to know of a task, on either device.
#ifndef TF_LOWPREC_CC_KERNELS_ALIGNED_SPEC_H_
#define TF_LOWPREC_CC_KERNELS_ALIGNED_SPEC_H_

#include "cc/kernels/aligned_matmul.h"
#include "cc/numerics/aligned.h"

LOWPREC_BEGIN_NAMESPACE

LOWPREC_HD AlignedSpec SpecOf(const AlignedMatMulTask& task) {
  AlignedSpec spec;
  spec.fraction_bits = task.fraction_bits;
  spec.exponent_bits = task.exponent_bits;
  spec.mantissa_bits = task.mantissa_bits;
  spec.nearest = task.nearest;
  spec.a_min_exponent = task.a_format.min_exponent;
  spec.b_min_exponent = task.b_format.min_exponent;
  return spec;
}

LOWPREC_END_NAMESPACE

#endif  // TF_LOWPREC_CC_KERNELS_ALIGNED_SPEC_H_
