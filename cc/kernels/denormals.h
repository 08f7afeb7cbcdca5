// TensorFlow runs CPU kernels with flush-to-zero and denormals-are-zero set. Formats with 8
// exponent bits, and stochastic rounding of tiny values, need both clear.
#ifndef TF_LOWPREC_CC_KERNELS_DENORMALS_H_
#define TF_LOWPREC_CC_KERNELS_DENORMALS_H_

#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

namespace tf_lowprec {

// Clears both bits of the calling thread and restores them. Every worker closure makes its own.
class ScopedDenormals {
 public:
#if defined(__x86_64__)
  ScopedDenormals() : saved_(_mm_getcsr()) { _mm_setcsr(saved_ & ~0x8040u); }
  ~ScopedDenormals() { _mm_setcsr(saved_); }

 private:
  unsigned int saved_;
#elif defined(__aarch64__)
  ScopedDenormals() {
    asm volatile("mrs %0, fpcr" : "=r"(saved_));
    asm volatile("msr fpcr, %0" : : "r"(saved_ & ~(1ull << 24)));
  }
  ~ScopedDenormals() { asm volatile("msr fpcr, %0" : : "r"(saved_)); }

 private:
  unsigned long long saved_;
#else
  ScopedDenormals() = default;
#endif

 public:
  ScopedDenormals(const ScopedDenormals&) = delete;
  ScopedDenormals& operator=(const ScopedDenormals&) = delete;
};

}  // namespace tf_lowprec

#endif  // TF_LOWPREC_CC_KERNELS_DENORMALS_H_
