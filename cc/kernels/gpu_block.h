// What a block of kGpuThreads threads computes together: reductions and prefix sums. All threads of
// the block call these, in the same order.
#ifndef TF_LOWPREC_CC_KERNELS_GPU_BLOCK_H_
#define TF_LOWPREC_CC_KERNELS_GPU_BLOCK_H_

#include "cc/kernels/gpu_shim.h"
#include "cc/numerics/macros.h"

LOWPREC_BEGIN_NAMESPACE

struct SumOf {
  template <typename T>
  LOWPREC_DEVICE T operator()(T a, T b) const {
    return a + b;
  }
};
struct LeastOf {
  template <typename T>
  LOWPREC_DEVICE T operator()(T a, T b) const {
    return a < b ? a : b;
  }
};
struct GreatestOf {
  template <typename T>
  LOWPREC_DEVICE T operator()(T a, T b) const {
    return a < b ? b : a;
  }
};

template <typename T>
struct Scanned {
  T inclusive;  // of this thread and those before it in its group
  T total;      // of the group
};

// Op over groups of `width` threads, a power of two.
template <typename Op, typename T>
LOWPREC_DEVICE Scanned<T> ScanGroups(T value, int width) {
  LOWPREC_SHARED T values[kGpuThreads];
  const int at = static_cast<int>(threadIdx.x), lane = at % width;
  __syncthreads();  // the call before has been read
  values[at] = value;
  for (int step = 1; step < width; step *= 2) {
    __syncthreads();
    if (lane >= step) value = Op()(values[at - step], value);
    __syncthreads();
    values[at] = value;
  }
  __syncthreads();
  return {value, values[at - lane + width - 1]};
}

template <typename Op, typename T>
LOWPREC_DEVICE Scanned<T> ScanBlock(T value) {
  return ScanGroups<Op>(value, kGpuThreads);
}

LOWPREC_END_NAMESPACE

#endif  // TF_LOWPREC_CC_KERNELS_GPU_BLOCK_H_
