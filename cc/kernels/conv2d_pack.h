// Packing of a convolution's right operand into panels of columns, rounded on the way; compiled
// once per instruction set.
#ifndef TF_LOWPREC_CC_KERNELS_CONV2D_PACK_H_
#define TF_LOWPREC_CC_KERNELS_CONV2D_PACK_H_

#include <cstring>

#include "cc/kernels/conv2d.h"
#include "cc/kernels/pack_loops.h"
#include "cc/kernels/tile_shape.h"

LOWPREC_BEGIN_NAMESPACE

// Elements of the right operand in memory, rounded some at a time.
class RightElements {
 public:
  static constexpr int64_t kMost = 256;

  RightElements(const ConvBlock& block, QuantizeFn quantize)
      : b_(block.task.b), quantize_(quantize) {
    rounding_.stages = block.task.b_stages;
    rounding_.num_stages = block.task.num_b_stages;
  }
  // At most kMost of them, valid until the next call.
  const float* Load(int64_t index, int64_t count) {
    if (rounding_.num_stages == 0) return b_ + index;
    RoundStages(rounding_, b_ + index, index, count, rounded_, quantize_);
    return rounded_;
  }

 private:
  const float* b_;
  QuantizeFn quantize_;
  PackTask rounding_;
  alignas(64) float rounded_[kMost];
};

// Of rows [k, k + rows) of a panel, once they are packed.
inline void IncludeRows(const ConvBlock& block, int64_t panel, int64_t k, int64_t rows) {
  const float* packed =
      block.packed_b + (panel * (block.k_end - block.k_begin) + k - block.k_begin) * kColumns;
  PanelRange range;
  for (int64_t i = 0; i < rows * kColumns; ++i) Include(range, packed[i]);
  Merge(block.b_range[panel], range);
}

// Filters with their channels swapped: element (k = (tap, o), column = c) is filters[tap, c, o].
inline void PackSwapped(const ConvBlock& block, int64_t begin, int64_t end, QuantizeFn quantize) {
  const ConvShape& s = block.task.product.shape;
  const int64_t length = block.k_end - block.k_begin, slices = block.Slices();
  const int64_t panels = block.ColumnPanels(kColumns), outputs = s.GroupOut();
  RightElements elements(block, quantize);
  for (int64_t unit = begin; unit < end; ++unit) {
    const int64_t panel = unit / slices;
    const int64_t group = block.group_begin + panel / panels;
    const int64_t column = block.column_begin + panel % panels * kColumns;
    const int width = static_cast<int>(Min(block.column_end - column, kColumns));
    const int64_t k_begin = block.k_begin + unit % slices * block.SliceLength();
    const int64_t k_end = Min(k_begin + block.SliceLength(), block.k_end);
    const int64_t size = (k_end - k_begin) * kColumns;
    float* out = block.packed_b + (panel * length + k_begin - block.k_begin) * kColumns;
    if (width < kColumns) memset(out, 0, static_cast<size_t>(size) * sizeof(float));
    for (int64_t k = k_begin; k < k_end;) {
      const int64_t tap = k / outputs, o = k % outputs;
      const int64_t count = Min(Min(outputs - o, k_end - k), RightElements::kMost);
      for (int lane = 0; lane < width; ++lane) {
        const int64_t row = tap * s.GroupIn() + column + lane;
        const float* from = elements.Load(row * s.out_channels + group * outputs + o, count);
        float* to = out + (k - k_begin) * kColumns + lane;
        for (int64_t i = 0; i < count; ++i) to[i * kColumns] = from[i];
      }
      k += count;
    }
    IncludeRows(block, panel, k_begin, k_end - k_begin);
  }
}

// Filters or dy, whose rows of columns are cut into panels.
inline void PackCut(const ConvBlock& block, int64_t begin, int64_t end, QuantizeFn quantize) {
  const ConvShape& s = block.task.product.shape;
  const int64_t length = block.k_end - block.k_begin, slices = block.Slices();
  const int64_t panels = block.ColumnPanels(kColumns);
  const int64_t columns = block.column_end - block.column_begin;
  RightElements elements(block, quantize);
  constexpr int64_t kMost = RightElements::kMost;
  static_assert(kMost % kColumns == 0, "whole panels");
  // Rows without a gap are rounded many at a time.
  const bool whole_rows = columns == s.out_channels && columns <= kMost;
  for (int64_t unit = begin; unit < end; ++unit) {
    const int64_t group = unit / slices, first_panel = group * panels;
    const int64_t k_begin = block.k_begin + unit % slices * block.SliceLength();
    const int64_t k_end = Min(k_begin + block.SliceLength(), block.k_end);
    const int64_t offset = (block.group_begin + group) * s.GroupOut() + block.column_begin;
    for (int64_t k = k_begin; k < k_end;) {
      const int64_t rows = whole_rows ? Min(k_end - k, kMost / columns) : 1;
      for (int64_t column = 0; column < columns; column += kMost) {
        const int64_t width = Min(columns - column, kMost);
        const float* from = elements.Load(k * s.out_channels + offset + column, rows * width);
        for (int64_t row = 0; row < rows; ++row, from += width) {
          float* to =
              block.packed_b +
              ((first_panel + column / kColumns) * length + k + row - block.k_begin) * kColumns;
          for (int64_t c = 0; c < width; c += kColumns, to += length * kColumns) {
            const int lanes = static_cast<int>(Min(width - c, kColumns));
            if (lanes == kColumns) {
              for (int lane = 0; lane < kColumns; ++lane) to[lane] = from[c + lane];
            } else {
              for (int lane = 0; lane < kColumns; ++lane)
                to[lane] = lane < lanes ? from[c + lane] : 0;
            }
          }
        }
      }
      k += rows;
    }
    for (int64_t panel = first_panel; panel < first_panel + panels; ++panel) {
      IncludeRows(block, panel, k_begin, k_end - k_begin);
    }
  }
}

// Panels of the right operand.
inline void ConvPackB(const ConvBlock& block, int64_t begin, int64_t end, QuantizeFn quantize) {
  if (block.task.product.pass == ConvPass::kBackward) {
    PackSwapped(block, begin, end, quantize);
  } else {
    PackCut(block, begin, end, quantize);
  }
}

LOWPREC_END_NAMESPACE

#endif  // TF_LOWPREC_CC_KERNELS_CONV2D_PACK_H_
