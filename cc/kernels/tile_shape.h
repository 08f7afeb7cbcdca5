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
// Rows whose sums are kept in registers as doubles, and for kNearestOdd.
#if defined(__AVX512F__)
constexpr int kDoubleRows = 12, kOddRows = 12;
using OddLanes = FloatLanes;
#else
constexpr int kDoubleRows = 6, kOddRows = 6;
using OddLanes = DoubleLanes;
#endif
#if defined(__AVX2__)
constexpr PathSupport kSupport = {true, kHasRoundingModes};
#else
constexpr PathSupport kSupport = {false, kHasRoundingModes};
#endif

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
