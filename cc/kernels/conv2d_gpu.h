// The CUDA kernel of Lowprec>Conv2D and its gradients: operands and launch. Included by
// conv2d_gpu.cu.cc for nvcc, and by the tests for the host, against gpu_shim.h.
//
// Implicit products of matrices, as conv2d.h lays them out: a block gathers the patches of a tile
// of 16 rows for 16 k's at a time into shared memory, and nowhere else. Groups are batches.
#ifndef TF_LOWPREC_CC_KERNELS_CONV2D_GPU_H_
#define TF_LOWPREC_CC_KERNELS_CONV2D_GPU_H_

#include "cc/kernels/conv2d_window.h"
#include "cc/kernels/gemm_gpu.h"

LOWPREC_BEGIN_NAMESPACE

// A row of the left operand: the patch of a window, or in kGradient a channel under one tap of all
// windows.
struct PatchLane {
  const GpuConv2DTask& task;
  bool lanes_last, inside;
  int64_t channels;      // of a group
  WindowPixel window;    // of the lane
  int64_t tap, channel;  // of the lane, in kGradient
  const float* source;   // the group's first channel

  LOWPREC_DEVICE PatchLane(const GpuConv2DTask& of, bool last, int64_t group, int64_t row)
      : task(of), lanes_last(last) {
    const ConvProduct& p = task.product;
    channels = p.SourceChannels() / p.shape.groups;
    source = task.a + group * channels;
    inside = row < p.Rows();
    if (!inside) return;
    if (lanes_last) {
      tap = row / channels;
      channel = row % channels;
    } else {
      window = WindowPixel(p, row);
    }
  }

  LOWPREC_DEVICE float At(int64_t k) const {
    return lanes_last ? Load(WindowPixel(task.product, k), tap, channel)
                      : Load(window, k / channels, k % channels);
  }
  LOWPREC_DEVICE float Load(const WindowPixel& at, int64_t of_tap, int64_t of_channel) const {
    const ConvProduct& p = task.product;
    const int64_t width = p.shape.filter_width;
    const int64_t pixel = SourcePixel(p, p.Layout(), at, of_tap / width, of_tap % width);
    return pixel < 0 ? FromBits<float>(kLeftOut)
                     : NotLeftOut(source[pixel * p.SourceChannels() + of_channel]);
  }
};

// A column of the right operand: a channel of the filters or of dy.
struct FilterLane {
  bool lanes_last, inside;
  const float* x;    // of k = 0
  int64_t step;      // from one k to the next; in kBackward from one tap to the next
  int64_t channels;  // side by side under a tap, in kBackward

  LOWPREC_DEVICE FilterLane(const GpuConv2DTask& task, bool last, int64_t group, int64_t column)
      : lanes_last(last) {
    const ConvShape& s = task.product.shape;
    inside = column < task.product.Columns();
    channels = lanes_last ? 1 : s.GroupOut();
    step = s.out_channels * (lanes_last ? 1 : s.GroupIn());
    x = task.b + group * s.GroupOut() + column * (lanes_last ? 1 : s.out_channels);
  }
  LOWPREC_DEVICE float At(int64_t k) const {
    return lanes_last ? x[k * step] : x[k / channels * step + k % channels];
  }
};

// As NarrowProductKernel wants it.
struct Conv2DProduct {
  static constexpr bool kLeavesOut = true;
  GpuConv2DTask task;

  LOWPREC_HD GpuTiles Tiles(int size) const {
    return {task.product.Rows(), task.product.Columns(), task.product.shape.groups, size};
  }
  int64_t LeftSize() const {
    const ConvShape& s = task.product.shape;
    return task.product.pass == ConvPass::kBackward ? s.OutPixels() * s.out_channels
                                                    : s.InPixels() * s.in_channels;
  }
  int64_t RightSize() const {
    const ConvShape& s = task.product.shape;
    return task.product.pass == ConvPass::kGradient ? s.OutPixels() * s.out_channels
                                                    : s.Taps() * s.GroupIn() * s.out_channels;
  }
  LOWPREC_HD int64_t Length() const { return task.product.Length(); }
  LOWPREC_HD int64_t Element(int64_t group, int64_t row, int64_t column) const {
    return row * task.product.ResultStep() + group * task.product.Columns() + column;
  }
  LOWPREC_HD bool LeftLanesLast() const { return task.product.pass == ConvPass::kGradient; }
  LOWPREC_HD bool RightLanesLast() const { return task.product.pass != ConvPass::kBackward; }
  LOWPREC_DEVICE PatchLane Left(int64_t group, int64_t row) const {
    return {task, LeftLanesLast(), group, row};
  }
  LOWPREC_DEVICE FilterLane Right(int64_t group, int64_t column) const {
    return {task, RightLanesLast(), group, column};
  }
};

inline void LaunchConv2DTiles(const GpuConv2DTask& task, void* stream) {
  Conv2DProduct product;
  product.task = task;
  LaunchNarrowProduct(product, stream);
}

LOWPREC_END_NAMESPACE

#endif  // TF_LOWPREC_CC_KERNELS_CONV2D_GPU_H_
