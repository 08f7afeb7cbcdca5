// How the sums of a convolution's block are accumulated, and its right operand in the scale that
// they drift in; compiled once per instruction set.
#ifndef TF_LOWPREC_CC_KERNELS_CONV2D_DRIFT_H_
#define TF_LOWPREC_CC_KERNELS_CONV2D_DRIFT_H_

#include "cc/kernels/conv2d.h"
#include "cc/kernels/drifting_scale.h"
#include "cc/kernels/tile.h"

LOWPREC_BEGIN_NAMESPACE

// Of all values of the right operand.
inline PanelRange RightRange(const ConvBlock& block) {
  return RangeOf(block.b_range, block.Groups() * block.ColumnPanels(kColumns));
}

// One way for the whole block, if all its values allow it.
inline PathChoice ChoiceOf(const ConvBlock& block) {
  const ConvTask& task = block.task;
  if (block.num_runs == 0) return {};
  return ChoosePath(task.accumulator, task.a_spec, task.b_spec, block.source_range,
                    RightRange(block), task.product.Length(), kSupport);
}

// For fewer panels of rows scaling costs what drifting gains.
inline bool HasRowsToDrift(const ConvBlock& block) {
  return block.num_runs > 0 && block.RowPanels(kRows) >= kFewestDrifting;
}

inline DriftingScale ConvExpectDrift(const ConvBlock& block) {
  const ConvTask& task = block.task;
  return HasRowsToDrift(block)
             ? ExpectDrift(task.accumulator, task.a_spec, task.b_spec, task.product.Length())
             : DriftingScale();
}

inline DriftingScale ConvDrift(const ConvBlock& block) {
  const ConvTask& task = block.task;
  if (!HasRowsToDrift(block)) return {};
  const PathChoice choice = ChoiceOf(block);
  if (block.drift.period > 0 && MayDrift(task.accumulator, choice) &&
      block.drift == ConvExpectDrift(block)) {
    return block.drift;
  }
  // Filters are scaled in memory now: where they are large and images are small, that costs more.
  constexpr int64_t kFewestPanels = 48;
  const bool gradient = task.product.pass == ConvPass::kGradient;
  if (!gradient && block.RowPanels(kRows) < kFewestPanels) return {};
  return FindDrift(task.accumulator, task.a_spec, task.b_spec, block.source_range,
                   RightRange(block), choice);
}

inline void ConvScaleB(const ConvBlock& block, const DriftingScale& to, int64_t begin,
                       int64_t end) {
  const int64_t length = block.k_end - block.k_begin, slices = block.Slices();
  const int64_t together = block.PanelsTogether(kColumns);
  for (int64_t unit = begin; unit < end; ++unit) {
    const int64_t first = unit / slices * together;
    const int64_t k = block.k_begin + unit % slices * block.SliceLength();
    const int64_t rows = Min(block.SliceLength(), block.k_end - k);
    for (int64_t panel = first; panel < first + together; ++panel) {
      float* b = block.packed_b + (panel * length + k - block.k_begin) * kColumns;
      ScaleRows(block.drift, to, k, rows, b, b);
    }
  }
}

LOWPREC_END_NAMESPACE

#endif  // TF_LOWPREC_CC_KERNELS_CONV2D_DRIFT_H_
