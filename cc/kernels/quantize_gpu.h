// The CUDA kernels of Lowprec>Quantize and Lowprec>QuantizeGrad: bodies and launches. Included by
// quantize_gpu.cu.cc for nvcc, and by the tests for the host, against gpu_shim.h.
#ifndef TF_LOWPREC_CC_KERNELS_QUANTIZE_GPU_H_
#define TF_LOWPREC_CC_KERNELS_QUANTIZE_GPU_H_

#include "cc/kernels/gpu_shim.h"
#include "cc/kernels/quantize.h"
#include "cc/numerics/rounding.h"

LOWPREC_BEGIN_NAMESPACE

template <Rounding kRounding, typename T>
struct FixedFunctor {
  FixedRounder<T> rounder;
  LOWPREC_HD float operator()(T x, uint32_t random) const {
    return RoundToFixed<kRounding>(x, rounder, random);
  }
};

template <Rounding kRounding, bool kGapAtZero, typename T>
struct FloatFunctor {
  FloatRounder<T> rounder;
  LOWPREC_HD float operator()(T x, uint32_t random) const {
    return RoundToFloat<kRounding, kGapAtZero>(x, rounder, random);
  }
};

// Four elements that are loaded or stored at once.
template <typename T>
struct alignas(16) Quad {
  T x[4];
};

inline bool IsAligned(const void* p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; }

// A thread takes four consecutive elements: those of one Philox block. aligned: x and y are, to 16
// bytes (a slice of a tensor need not be).
template <Rounding kRounding, typename T, typename Round>
__global__ void QuantizeKernel(const T* x, float* y, int64_t n, Round round, PhiloxKey key,
                               uint64_t stream, const int32_t* random_bits, bool aligned) {
  const int64_t step = int64_t{blockDim.x} * gridDim.x;
  for (int64_t quad = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; 4 * quad < n; quad += step) {
    PhiloxWords random = {{0, 0, 0, 0}};
    if (kRounding == Rounding::kStochastic && random_bits == nullptr) {
      random = Philox(static_cast<uint32_t>(quad), static_cast<uint32_t>(quad >> 32),
                      static_cast<uint32_t>(stream), static_cast<uint32_t>(stream >> 32), key);
    }
    const auto rounded = [&](T value, int i) {
      const uint32_t r = random_bits != nullptr ? static_cast<uint32_t>(random_bits[4 * quad + i]) &
                                                      ((1u << kRandomBits) - 1)
                                                : random.w[i] >> (32 - kRandomBits);
      return round(value, r);
    };
    if (aligned && 4 * quad + 4 <= n) {
      const Quad<T> in = reinterpret_cast<const Quad<T>*>(x)[quad];
      Quad<float> out;
      for (int i = 0; i < 4; ++i) out.x[i] = rounded(in.x[i], i);
      reinterpret_cast<Quad<float>*>(y)[quad] = out;
    } else {
      for (int i = 0; i < 4 && 4 * quad + i < n; ++i) y[4 * quad + i] = rounded(x[4 * quad + i], i);
    }
  }
}

template <Rounding kRounding, typename T, typename Round>
void LaunchRound(const QuantizeTask& task, const T* x, int64_t n, Round round, void* stream) {
  const PhiloxKey key = {task.seed[0], task.seed[1]};
  LOWPREC_LAUNCH((QuantizeKernel<kRounding, T, Round>), GpuBlocksFor((n + 3) / 4), kGpuThreads,
                 stream, x, task.y, n, round, key, task.stream, task.random_bits,
                 IsAligned(x) && IsAligned(task.y));
}

template <Rounding kRounding, typename T>
void LaunchRounding(const QuantizeTask& task, const T* x, int64_t n, void* stream) {
  if (task.is_fixed) {
    const FixedFormat format = {task.integer_bits, task.fractional_bits};
    const FixedFunctor<kRounding, T> round = {MakeFixedRounder<T>(format)};
    LaunchRound<kRounding>(task, x, n, round, stream);
    return;
  }
  const FloatFormat format = {task.exponent_bits, task.mantissa_bits,
                              static_cast<Specials>(task.specials), task.saturate, task.subnormals};
  const FloatRounder<T> rounder = MakeFloatRounder<T>(format, kRounding);
  if (task.subnormals) {
    LaunchRound<kRounding>(task, x, n, FloatFunctor<kRounding, false, T>{rounder}, stream);
  } else {
    LaunchRound<kRounding>(task, x, n, FloatFunctor<kRounding, true, T>{rounder}, stream);
  }
}

template <typename T>
void LaunchQuantizeOf(const QuantizeTask& task, const T* x, int64_t n, void* stream) {
  switch (static_cast<Rounding>(task.rounding)) {
    case Rounding::kNearestEven:
      return LaunchRounding<Rounding::kNearestEven>(task, x, n, stream);
    case Rounding::kNearestUp:
      return LaunchRounding<Rounding::kNearestUp>(task, x, n, stream);
    case Rounding::kStochastic:
      return LaunchRounding<Rounding::kStochastic>(task, x, n, stream);
    case Rounding::kTowardZero:
      return LaunchRounding<Rounding::kTowardZero>(task, x, n, stream);
  }
}

template <typename T>
__global__ void QuantizeGradKernel(const float* dy, const T* x, T* dx, int64_t n, T lowest,
                                   T highest) {
  const int64_t step = int64_t{blockDim.x} * gridDim.x;
  for (int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < n; i += step) {
    dx[i] = StraightThrough(dy[i], x[i], lowest, highest);
  }
}

template <typename T>
void LaunchQuantizeGradOf(const float* dy, const T* x, T* dx, int64_t n, T lowest, T highest,
                          void* stream) {
  LOWPREC_LAUNCH((QuantizeGradKernel<T>), GpuBlocksFor(n), kGpuThreads, stream, dy, x, dx, n,
                 lowest, highest);
}

LOWPREC_END_NAMESPACE

#endif  // TF_LOWPREC_CC_KERNELS_QUANTIZE_GPU_H_
