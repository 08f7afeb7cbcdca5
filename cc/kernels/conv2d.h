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
// The right operand is packed once if it fits some megabytes, otherwise in blocks. Threads round
// some images each, or images are rounded together and their panels of rows are shared out. Panels
// take the left operand from images with their padding around them, or gather it a piece of k at a
// time.
#ifndef TF_LOWPREC_CC_KERNELS_CONV2D_H_
#define TF_LOWPREC_CC_KERNELS_CONV2D_H_

#include <cstdint>
#include <functional>

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
  LOWPREC_HD bool HasStrides() const { return stride_height > 1 || stride_width > 1; }
  LOWPREC_HD int64_t Taps() const { return filter_height * filter_width; }
  LOWPREC_HD int64_t GroupIn() const { return in_channels / groups; }
  LOWPREC_HD int64_t GroupOut() const { return out_channels / groups; }
};

// Where the pixels of an image lie: pixel (n, h, w) at index
// (n image_step + h row_step + w + origin) channels.
struct SourceLayout {
  int64_t image_step = 0, row_step = 0, origin = 0;

  LOWPREC_HD int64_t Pixel(int64_t image, int64_t h, int64_t w) const {
    return image * image_step + h * row_step + w + origin;
  }
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
  // Of one image; not in kGradient.
  LOWPREC_HD int64_t RowsOfImage() const {
    return pass == ConvPass::kForward ? shape.out_height * shape.out_width
                                      : shape.in_height * shape.in_width;
  }
  // Of the left operand's image, as a tensor.
  LOWPREC_HD SourceLayout Layout() const {
    return pass == ConvPass::kBackward
               ? SourceLayout{shape.out_height * shape.out_width, shape.out_width, 0}
               : SourceLayout{shape.in_height * shape.in_width, shape.in_width, 0};
  }
  // Elements from one row of the result to the next; columns of group g start at g * Columns().
  LOWPREC_HD int64_t ResultStep() const {
    return pass == ConvPass::kBackward ? shape.in_channels : shape.out_channels;
  }
};

LOWPREC_HD int64_t CeilOf(int64_t a, int64_t b) { return (a + b - 1) / b; }

// What a call computes.
struct ConvTask {
  ConvProduct product;
  const float* image = nullptr;  // of the left operand
  const QuantizeTask* a_stages = nullptr;
  int num_a_stages = 0;
  const float* b = nullptr;
  const QuantizeTask* b_stages = nullptr;
  int num_b_stages = 0;
  float* c = nullptr;
  AccumulatorSpec accumulator;
  OperandSpec a_spec, b_spec;
  uint32_t seed[2] = {0, 0};
  uint64_t stream = 0;
};

// A run of k whose left operand need not be packed (TileRun, for every instruction set).
struct ConvRun {
  int64_t offset, k_begin, k_end;
};

// The pixels of an image that are rows of a block: (first_h + i step_h, first_w + j step_w).
struct PixelGrid {
  int64_t first_h = 0, first_w = 0, step_h = 1, step_w = 1, height = 0, width = 0;

  LOWPREC_HD int64_t Pixels() const { return height * width; }
};

// A part of a call: groups, panels of rows, k and columns, and the buffers that hold what of the
// operands belongs to these.
struct ConvBlock {
  ConvTask task;
  int64_t group_begin = 0, group_end = 0, row_begin = 0, row_end = 0;
  int64_t k_begin = 0, k_end = 0, column_begin = 0, column_end = 0;
  // Rows fall into stretches of `stretch` rows from row_begin on; a panel does not reach beyond
  // one.
  int64_t stretch = 1;
  const float* source = nullptr;  // the image, rounded
  SourceLayout layout;
  PanelRange source_range;
  float* packed_b = nullptr;      // [groups][column panels][k][columns]
  PanelRange* b_range = nullptr;  // [groups][column panels]
  int64_t column_groups = 1;      // into which the column panels are divided, for threads
  bool* out_of_memory = nullptr;  // set where a thread got none
  // Where the block has a part of k only: sums and ranges, kept for the next part.
  void* tiles = nullptr;          // [groups][row panels][column panels], tile_bytes each
  PanelRange* a_range = nullptr;  // [groups][row panels][column groups]
  // If the image has its padding around it: what a panel gathers. In kForward and kBackward rows
  // are then the grid's pixels of one image after the other, and row_begin counts these.
  const ConvRun* runs = nullptr;
  int64_t num_runs = 0;
  PixelGrid grid;

  LOWPREC_HD int64_t Groups() const { return group_end - group_begin; }
  LOWPREC_HD int64_t StretchPanels(int rows) const { return (stretch + rows - 1) / rows; }
  LOWPREC_HD int64_t RowPanels(int rows) const {
    return (row_end - row_begin) / stretch * StretchPanels(rows);
  }
  LOWPREC_HD int64_t ColumnPanels(int columns) const {
    return (column_end - column_begin + columns - 1) / columns;
  }
  // k's that are packed together: of a panel in kBackward, of all panels of a group otherwise.
  LOWPREC_HD int64_t SliceLength() const {
    return task.product.pass == ConvPass::kBackward ? 1024 : 64;
  }
  LOWPREC_HD int64_t Slices() const {
    return (k_end - k_begin + SliceLength() - 1) / SliceLength();
  }
  LOWPREC_HD int64_t PanelsTogether(int columns) const {
    return task.product.pass == ConvPass::kBackward ? 1 : ColumnPanels(columns);
  }
  LOWPREC_HD int64_t PackUnits(int columns) const {
    return Groups() * Slices() * (ColumnPanels(columns) / PanelsTogether(columns));
  }
};

// How the work is divided, and the memory that it takes (floats but for tiles).
struct ConvPlan {
  int64_t group_step, row_step, row_panels, k_step, column_step, column_groups;
  int64_t stretch;  // of rows; 0: a block's
  // Whether blocks are of whole images, copied with their padding around them: padded_height by
  // padded_width pixels, the image's first at (top, left).
  bool padded;
  int64_t padded_height, padded_width, top, left;
  int64_t source_size, packed_size, tile_bytes;
  // kForward and kBackward, or 0: images that a thread takes at a time, in memory of its own, so
  // that they stay in the cache until they are multiplied; and for how many threads there is such
  // memory.
  int64_t images_together, threads;
  int64_t units_together;  // of Multiply: of fewer, a thread would read the operands too often
};

// One instruction set's functions. PackB works on a range of PackUnits(), Multiply on one of
// Groups() x RowPanels() x column_groups; threads may share out both.
struct Conv2D {
  int rows, columns;
  int64_t tile_bytes;
  QuantizeFn quantize;
  // Rows [begin, end) of the padded images; ranges merge into `range`.
  void (*pad)(const ConvBlock& block, const ConvPlan& plan, int64_t first_image, int64_t begin,
              int64_t end, float* out, PanelRange* range);
  void (*pack_b)(const ConvBlock& block, int64_t begin, int64_t end);
  // Whether runs may leave out terms of the block, as rule 6 does.
  bool (*may_skip)(const ConvBlock& block);
  void (*multiply)(const ConvBlock& block, int64_t begin, int64_t end);
};

// work(begin, end) over [0, total), in parallel; a unit costs about `cost` cycles.
using ParallelFor = std::function<void(int64_t total, int64_t cost,
                                       const std::function<void(int64_t, int64_t)>& work)>;

// Bytes of memory, about, but for results: less of it means smaller blocks.
struct ConvBudget {
  int64_t source = 12 << 20;  // the rounded image
  int64_t packed = 12 << 20;  // the right operand
  int64_t tiles = 6 << 20;    // sums kept from one block of k to the next
  int64_t cache = 512 << 10;  // images that a thread takes at a time
};
// conv2d_plan.cc
ConvPlan PlanConv2D(const Conv2D& kernel, const ConvTask& task, int threads,
                    const ConvBudget& budget = ConvBudget());

// The pixels that rows (or, in kGradient, terms) [begin, end) gather from: [*first, *last).
void ConvSource(const ConvProduct& product, int64_t begin, int64_t end, int64_t* first,
                int64_t* last);

// Buffers of a plan's sizes.
struct ConvMemory {
  float* source;
  float* packed;
  void* tiles;
};

// The whole convolution. Returns false if a thread could not get memory.
bool RunConv2D(const Conv2D& kernel, const ConvPlan& plan, const ConvTask& task,
               const ConvMemory& memory, const ParallelFor& parallel_for);

// For the fastest instruction set that this CPU runs (TF_LOWPREC_ISA as in cpu_features.h).
Conv2D ChooseConv2D();

// The same products, of all groups, on a CUDA stream (a cudaStream_t); in the library if it was
// built with nvcc. Patches are gathered tile by tile, into shared memory. Returns why it could not
// start, or nullptr.
struct GpuConv2DTask : GpuGemmTask {  // a: the image; b: filters, or in kGradient dy
  ConvProduct product;
};
const char* LaunchConv2D(const GpuConv2DTask& task, void* stream);

}  // namespace tf_lowprec

#endif  // TF_LOWPREC_CC_KERNELS_CONV2D_H_
