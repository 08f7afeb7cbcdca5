// Which instruction sets this CPU and operating system run.
#ifndef TF_LOWPREC_CC_KERNELS_CPU_FEATURES_H_
#define TF_LOWPREC_CC_KERNELS_CPU_FEATURES_H_

namespace tf_lowprec {

enum class Isa { kPortable, kAvx2, kAvx512 };

// The best one, or the one that TF_LOWPREC_ISA (portable, avx2, avx512) asks for, if it runs here.
Isa ChooseIsa();

}  // namespace tf_lowprec

#endif  // TF_LOWPREC_CC_KERNELS_CPU_FEATURES_H_
