// Bounds on a panel's values for each k, to tell for which terms float32 is right
// (accumulation_path.h, float_for_few).
#ifndef TF_LOWPREC_CC_KERNELS_STEP_BOUNDS_H_
#define TF_LOWPREC_CC_KERNELS_STEP_BOUNDS_H_

#include "cc/kernels/matmul.h"
#include "cc/kernels/tile_shape.h"

LOWPREC_BEGIN_NAMESPACE

// Of a packed panel of finite values.
template <int kWidth>
inline void FindStepBounds(const float* panel, int64_t k, const OperandSpec& spec,
                           const StepBounds& bounds) {
  constexpr int64_t kBlock = 64;
  constexpr int kNone = 10000;  // twice as much is an int16_t too
  for (int64_t first = 0; first < k; first += kBlock) {
    const int64_t count = Min(k - first, kBlock);
    // Lane by lane, for vectors of k.
    alignas(64) int32_t bits[kWidth][kBlock];
    for (int64_t i = 0; i < count; ++i) {
      for (int lane = 0; lane < kWidth; ++lane) {
        bits[lane][i] = static_cast<int32_t>(ToBits<float>(panel[(first + i) * kWidth + lane]));
      }
    }
    alignas(64) int32_t most[kBlock], least[kBlock];
    for (int64_t i = 0; i < count; ++i) most[i] = -kNone, least[i] = kNone;
    for (int lane = 0; lane < kWidth; ++lane) {
      for (int64_t i = 0; i < count; ++i) {
        const int32_t magnitude = bits[lane][i] & 0x7FFFFFFF;
        const int32_t exponent = (magnitude >> 23) - 126;
        // The last bit that is set is worth as much as itself in a float's exponent.
        const int32_t significand = (magnitude & 0x7FFFFF) | 0x800000;
        const int32_t last = significand & -significand;
        const int32_t place =
            static_cast<int32_t>(ToBits<float>(static_cast<float>(last)) >> 23) - 127 - 23;
        const int32_t quantum = magnitude >> 23 == 0 ? spec.min_quantum : exponent - 1 + place;
        most[i] = magnitude == 0 ? most[i] : Max(most[i], exponent);
        least[i] = magnitude == 0 ? least[i] : Min(least[i], quantum);
      }
    }
    for (int64_t i = 0; i < count; ++i) {
      bounds.exponent[first + i] = static_cast<int16_t>(most[i]);
      bounds.quantum[first + i] = static_cast<int16_t>(least[i]);
    }
  }
}

// Of the products of two panels, for some k's together.
struct ProductBounds {
  int exponent, quantum;
};
inline ProductBounds BoundsOfProducts(const StepBounds& a, const StepBounds& b, int64_t begin,
                                      int64_t end) {
  int16_t exponent = INT16_MIN, quantum = INT16_MAX;
  for (int64_t i = begin; i < end; ++i) {
    exponent = Max(exponent, static_cast<int16_t>(a.exponent[i] + b.exponent[i]));
    quantum = Min(quantum, static_cast<int16_t>(a.quantum[i] + b.quantum[i]));
  }
  return {exponent, quantum};
}

LOWPREC_END_NAMESPACE

#endif  // TF_LOWPREC_CC_KERNELS_STEP_BOUNDS_H_
