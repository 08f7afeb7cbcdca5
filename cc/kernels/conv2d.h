// Convolutions with narrow accumulators in all three passes, outside TensorFlow, as products of
// matrices whose left operand is gathered from images while it is packed:
//
//   pass        rows          k             columns  left operand  right operand
//   kForward    (b, oh, ow)   (i, j, cin)   cout     x             filters
//   kBackward   (b, h, w)     (i, j, cout)  cin      dy            filters, transposed
//   kGradient   (i, j, cin)   (b, oh, ow)   cout     x             dy
//
// (i, j) is the position in the filter, ascending in every pass; channels are those of one group.
// Where the window meets padding, or a strided dy has no element, a term is left out, not added.
//
// A block is as many rows and as much of k as fit some megabytes once packed. Threads share out its
// panels, then its tiles; tiles keep their sums from one block of k to the next.
#ifndef TF_LOWPREC_CC_KERNELS_CONV2D_H_
#define TF_LOWPREC_CC_KERNELS_CONV2D_H_

#include <cstdint>

#include "cc/kernels/matmul.h"

namespace tf_lowprec {

enum class ConvPass { kForward, kBackward, kGradient };

struct ConvShape {
  int64_t batch = 0, in_height = 0, in_width = 0, in_channels = 0;
  int64_t out_height = 0, out_width = 0, out_channels = 0;
  int64_t filter_height = 0, filter_width = 0;
  int64_t stride_height = 1, stride_width = 1, dilation_height = 1, dilation_width = 1;
  int64_t pad_top = 0, pad_left = 0, groups = 1;

  LOWPREC_HD int64_t InPixels() const { return batch * in_height * in_width; }
  LOWPREC_HD int64_t OutPixels() const { return batch * out_height * out_width; }
  LOWPREC_HD int64_t Taps() const { return filter_height * filter_width; }
  LOWPREC_HD int64_t GroupIn() const { return in_channels / groups; }
  LOWPREC_HD int64_t GroupOut() const { return out_channels / groups; }
};

// The product of one group.
struct ConvProduct {
  ConvPass pass = ConvPass::kForward;
  ConvShape shape;

  LOWPREC_HD int64_t Rows() const {
    switch (pass) {
      case ConvPass::kForward:
        return shape.OutPixels();
      case ConvPass::kBackward:
        return shape.InPixels();
      default:
        return shape.Taps() * shape.GroupIn();
    }
  }
  LOWPREC_HD int64_t Length() const {
    switch (pass) {
      case ConvPass::kForward:
        return shape.Taps() * shape.GroupIn();
      case ConvPass::kBackward:
        return shape.Taps() * shape.GroupOut();
      default:
        return shape.OutPixels();
    }
  }
  LOWPREC_HD int64_t Columns() const {
    return pass == ConvPass::kBackward ? shape.GroupIn() : shape.GroupOut();
  }
  // Channels of the image that the left operand is gathered from.
  LOWPREC_HD int64_t SourceChannels() const {
    return pass == ConvPass::kBackward ? shape.out_channels : shape.in_channels;
  }
  // Elements from one row of the result to the next; columns of group g start at g * Columns().
  LOWPREC_HD int64_t ResultStep() const {
    return pass == ConvPass::kBackward ? shape.in_channels : shape.out_channels;
  }
};

struct ConvBlock {
  ConvProduct product;
  int64_t group = 0;
  int64_t row_begin = 0, row_end = 0, k_begin = 0, k_end = 0, column_begin = 0, column_end = 0;
  // The left operand's image: pixels from first_pixel on, rounded.
  const float* source = nullptr;
  int64_t first_pixel = 0;
  // The right operand and its roundings.
  const float* b = nullptr;
  const QuantizeTask* b_stages = nullptr;
  int num_b_stages = 0;
  // From the caller. Ranges gather over all blocks of k.
  float* packed_a = nullptr;  // [row panels][k][rows]
  PanelRange* a_range = nullptr;
  uint8_t* a_padded = nullptr;  // whether a panel has terms that are left out
  float* packed_b = nullptr;    // [column panels][k][columns]
  PanelRange* b_range = nullptr;
  void* tiles = nullptr;          // tile_bytes each
  float* c = nullptr;             // the whole result
  bool* out_of_memory = nullptr;  // set where a thread got none

  AccumulatorSpec accumulator;
  OperandSpec a_spec, b_spec;
  uint32_t seed[2] = {0, 0};
  uint64_t stream = 0;

  LOWPREC_HD int64_t RowPanels(int rows) const { return (row_end - row_begin + rows - 1) / rows; }
  LOWPREC_HD int64_t ColumnPanels(int columns) const {
    return (column_end - column_begin + columns - 1) / columns;
  }
};

// The pixels that rows (or, in kGradient, terms) [begin, end) gather from: [*first, *last).
void ConvSource(const ConvProduct& product, int64_t begin, int64_t end, int64_t* first,
                int64_t* last);

// One instruction set's functions, each on a range of panels or tiles of a block.
struct Conv2D {
  int rows, columns;
  int64_t tile_bytes;
  void (*pack_a)(const ConvBlock& block, int64_t begin, int64_t end);
  void (*pack_b)(const ConvBlock& block, int64_t begin, int64_t end);
  void (*multiply)(const ConvBlock& block, int64_t begin, int64_t end);
};

// For the fastest instruction set that this CPU runs (TF_LOWPREC_ISA as in cpu_features.h).
Conv2D ChooseConv2D();

// The same products, of all groups, on a CUDA stream (a cudaStream_t); in the library if it was
// built with nvcc. Patches are gathered tile by tile, into shared memory.
struct GpuConv2DTask : GpuGemmTask {  // a: the image; b: filters, or in kGradient dy
  ConvProduct product;
};
void LaunchConv2D(const GpuConv2DTask& task, void* stream);

}  // namespace tf_lowprec

#endif  // TF_LOWPREC_CC_KERNELS_CONV2D_H_
