// The size of a tile of output elements, and what an instruction set offers to compute it.
#ifndef TF_LOWPREC_CC_KERNELS_TILE_SHAPE_H_
#define TF_LOWPREC_CC_KERNELS_TILE_SHAPE_H_

#include "cc/kernels/accumulation_path.h"
#include "cc/kernels/float_lanes.h"
#include "cc/kernels/float_mode.h"

LOWPREC_BEGIN_NAMESPACE

// A tile: one register of float32 wide, and high enough that its partial sums hide the latency of a
// step's chain of instructions.
constexpr int kColumns = FloatLanes::kLanes;
constexpr int kRows = 12;
// How many sums a step works on at a time: kRows by kVectors registers.
template <int kCount, int kWidth>
struct StepShape {
  static constexpr int kRows = kCount, kVectors = kWidth, kSums = kCount * kWidth;
};
using FloatShape = StepShape<kRows, 1>;
using GuessOddShape = StepShape<kRows / 2, 2>;  // leaves registers for its doubts
#if defined(__AVX512F__)
using OddLanes = FloatLanes;
using DoubleShape = StepShape<kRows, 2>;
using StochasticShape = StepShape<kRows / 3, 1>;  // 179 steps' words fit in the nearest cache
#else
using OddLanes = DoubleLanes;
using DoubleShape = StepShape<kRows, 1>;
using StochasticShape = StepShape<kRows / 2, 1>;
#endif
constexpr PathSupport kSupport = {kHasFma, kHasRoundingModes, true};

// Not std's: the linker might take another instruction set's copy of those.
template <typename T, typename U>
LOWPREC_HD T Min(T a, U b) {
  return a < static_cast<T>(b) ? a : static_cast<T>(b);
}
template <typename T, typename U>
LOWPREC_HD T Max(T a, U b) {
  return a > static_cast<T>(b) ? a : static_cast<T>(b);
}

LOWPREC_END_NAMESPACE

#endif  // TF_LOWPREC_CC_KERNELS_TILE_SHAPE_H_
