// Which pixel lies under a tap of a window, in all three passes; on both devices.
#ifndef TF_LOWPREC_CC_KERNELS_CONV2D_WINDOW_H_
#define TF_LOWPREC_CC_KERNELS_CONV2D_WINDOW_H_

#include "cc/kernels/conv2d.h"

LOWPREC_BEGIN_NAMESPACE

// A pixel of the images that windows belong to: outputs, or in kBackward inputs.
struct WindowPixel {
  int64_t image, h, w;

  LOWPREC_HD WindowPixel() {}
  LOWPREC_HD WindowPixel(const ConvProduct& p, int64_t pixel) {
    const bool backward = p.pass == ConvPass::kBackward;
    const int64_t width = backward ? p.shape.in_width : p.shape.out_width;
    const int64_t height = backward ? p.shape.in_height : p.shape.out_height;
    w = pixel % width;
    h = pixel / width % height;
    image = pixel / (width * height);
  }
  // To the next one, without divisions.
  LOWPREC_HD void Next(int64_t width, int64_t height) {
    if (++w < width) return;
    w = 0;
    if (++h < height) return;
    h = 0;
    ++image;
  }
};

// The pixel of the left operand's image under tap (i, j) of a window, where `layout` has it; -1 if
// there is none.
LOWPREC_HD int64_t SourcePixel(const ConvProduct& product, const SourceLayout& layout,
                               const WindowPixel& at, int64_t i, int64_t j) {
  const ConvShape& s = product.shape;
  if (product.pass == ConvPass::kBackward) {
    int64_t oh = at.h + s.pad_top - i * s.dilation_height;
    int64_t ow = at.w + s.pad_left - j * s.dilation_width;
    if (oh < 0 || ow < 0) return -1;
    if (s.stride_height > 1 || s.stride_width > 1) {
      if (oh % s.stride_height != 0 || ow % s.stride_width != 0) return -1;
      oh /= s.stride_height;
      ow /= s.stride_width;
    }
    if (oh >= s.out_height || ow >= s.out_width) return -1;
    return layout.Pixel(at.image, oh, ow);
  }
  const int64_t h = at.h * s.stride_height - s.pad_top + i * s.dilation_height;
  const int64_t w = at.w * s.stride_width - s.pad_left + j * s.dilation_width;
  if (h < 0 || w < 0 || h >= s.in_height || w >= s.in_width) return -1;
  return layout.Pixel(at.image, h, w);
}

LOWPREC_END_NAMESPACE

#endif  // TF_LOWPREC_CC_KERNELS_CONV2D_WINDOW_H_
