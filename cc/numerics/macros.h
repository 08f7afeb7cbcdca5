// Host/device decoration and the per-instruction-set namespace of cc/numerics.
#ifndef TF_LOWPREC_CC_NUMERICS_MACROS_H_
#define TF_LOWPREC_CC_NUMERICS_MACROS_H_

#if defined(__CUDACC__)
#define LOWPREC_HD __host__ __device__ __forceinline__
#else
#define LOWPREC_HD inline __attribute__((always_inline))
#endif

// The same, and whether it is inlined is the compiler's choice.
#if defined(__CUDACC__)
#define LOWPREC_HD_INLINE __host__ __device__ inline
#else
#define LOWPREC_HD_INLINE inline
#endif

// The same headers are compiled several times with different instruction sets. Each copy lives in
// an inline namespace of its own, so that the linker can never hand AVX-512 code to an older CPU.
#ifndef LOWPREC_ISA
#define LOWPREC_ISA portable
#endif

#define LOWPREC_BEGIN_NAMESPACE \
  namespace tf_lowprec {        \
  inline namespace LOWPREC_ISA {
#define LOWPREC_END_NAMESPACE \
  }                           \
  }

#endif  // TF_LOWPREC_CC_NUMERICS_MACROS_H_
