// The calling thread's floating-point mode, for the life of an object.
#ifndef TF_LOWPREC_CC_KERNELS_FLOAT_MODE_H_
#define TF_LOWPREC_CC_KERNELS_FLOAT_MODE_H_

#include <cstdint>

#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

namespace tf_lowprec {

// The control register with the bits of `clear` cleared and those of `set` set, until destruction.
template <uint64_t kClear, uint64_t kSet>
class ScopedFloatMode {
 public:
#if defined(__x86_64__)
  ScopedFloatMode() : saved_(_mm_getcsr()) {
    _mm_setcsr((saved_ & ~static_cast<unsigned int>(kClear)) | static_cast<unsigned int>(kSet));
  }
  ~ScopedFloatMode() { _mm_setcsr(saved_); }

 private:
  unsigned int saved_;
#elif defined(__aarch64__)
  ScopedFloatMode() {
    asm volatile("mrs %0, fpcr" : "=r"(saved_));
    asm volatile("msr fpcr, %0" : : "r"((saved_ & ~kClear) | kSet));
  }
  ~ScopedFloatMode() { asm volatile("msr fpcr, %0" : : "r"(saved_)); }

 private:
  uint64_t saved_;
#else
  ScopedFloatMode() = default;
#endif

 public:
  ScopedFloatMode(const ScopedFloatMode&) = delete;
  ScopedFloatMode& operator=(const ScopedFloatMode&) = delete;
};

// TensorFlow runs CPU kernels with flush-to-zero and denormals-are-zero set. Formats with 8
// exponent bits, and stochastic rounding of tiny values, need both clear. Every worker closure
// makes its own.
//
// ScopedRoundDown sends inexact results toward minus infinity, ScopedRoundTowardZero cuts them. Use
// them around a loop whose code does not depend on rounding to nearest; the compiler knows nothing
// of them.
#if defined(__aarch64__)
using ScopedDenormals = ScopedFloatMode<1u << 24, 0>;
using ScopedRoundDown = ScopedFloatMode<3u << 22, 2u << 22>;
using ScopedRoundTowardZero = ScopedFloatMode<3u << 22, 3u << 22>;
using ScopedRoundToNearest = ScopedFloatMode<3u << 22, 0>;
constexpr bool kHasRoundingModes = true;
#else
using ScopedDenormals = ScopedFloatMode<0x8040u, 0>;
using ScopedRoundDown = ScopedFloatMode<0x6000u, 0x2000u>;
using ScopedRoundTowardZero = ScopedFloatMode<0x6000u, 0x6000u>;
using ScopedRoundToNearest = ScopedFloatMode<0x6000u, 0>;
#if defined(__x86_64__)
constexpr bool kHasRoundingModes = true;
#else
constexpr bool kHasRoundingModes = false;
#endif
#endif

}  // namespace tf_lowprec

#endif  // TF_LOWPREC_CC_KERNELS_FLOAT_MODE_H_
