// Packing of a convolution's left operand: a panel gathers what its rows need from images that are
// rounded already; compiled once per instruction set.
#ifndef TF_LOWPREC_CC_KERNELS_CONV2D_GATHER_H_
#define TF_LOWPREC_CC_KERNELS_CONV2D_GATHER_H_

#include <cstring>

#include "cc/kernels/conv2d.h"
#include "cc/kernels/conv2d_window.h"
#include "cc/kernels/pack_loops.h"
#include "cc/kernels/tile.h"

LOWPREC_BEGIN_NAMESPACE

// A panel of the left operand, or a piece of it: rows from first_row on, k from k_begin on.
struct LeftPanel {
  int64_t group, first_row;
  int width;  // rows that it has
  int64_t k_begin, k_end;
};

// Lanes of a panel in kGradient that share tap (i, j): consecutive channels.
struct ChannelRun {
  int64_t i, j, channel;
  int lane, lanes;
};

inline int ChannelRuns(const ConvShape& s, const LeftPanel& panel, ChannelRun* runs) {
  const int64_t channels = s.GroupIn();
  int count = 0;
  for (int lane = 0; lane < panel.width; ++count) {
    const int64_t row = panel.first_row + lane, tap = row / channels, c = row % channels;
    const int lanes = static_cast<int>(Min(channels - c, panel.width - lane));
    runs[count] = {tap / s.filter_width, tap % s.filter_width, panel.group * channels + c, lane,
                   lanes};
    lane += lanes;
  }
  return count;
}

// kForward and kBackward: lanes are pixels, whose channels under a tap lie side by side. Returns
// whether terms are left out.
inline bool PackPixels(const ConvBlock& block, const LeftPanel& panel, const WindowPixel* at,
                       float* out) {
  const ConvProduct& p = block.task.product;
  const ConvShape& s = p.shape;
  const int64_t channels = p.pass == ConvPass::kBackward ? s.GroupOut() : s.GroupIn();
  const int64_t step = p.SourceChannels();
  const float* source = block.source + panel.group * channels;
  static_assert(kRows % 4 == 0, "lanes in fours");
  bool padded = false;
  int64_t tap = panel.k_begin / channels, c = panel.k_begin % channels;
  int64_t i = tap / s.filter_width, j = tap % s.filter_width;
  for (int64_t k = panel.k_begin; k < panel.k_end; c = 0) {
    const int64_t count = Min(channels - c, panel.k_end - k);
    const float* from[kRows] = {};
    for (int lane = 0; lane < panel.width; ++lane) {
      const int64_t pixel = SourcePixel(p, block.layout, at[lane], i, j);
      padded = padded || pixel < 0;
      if (pixel >= 0) from[lane] = source + pixel * step + c;
    }
    float* to = out + (k - panel.k_begin) * kRows;
    int64_t n = 0;
    for (; n + 4 <= count; n += 4) {
      for (int lane = 0; lane < kRows; lane += 4) {
        Quad in[4];
        for (int q = 0; q < 4; ++q) {
          in[q] = from[lane + q] != nullptr ? LoadQuad(from[lane + q] + n) : Quad{};
        }
        TransposeQuads(in, to + n * kRows + lane, kRows);
      }
    }
    for (; n < count; ++n) {
      for (int lane = 0; lane < kRows; ++lane) {
        to[n * kRows + lane] = from[lane] != nullptr ? from[lane][n] : 0.0f;
      }
    }
    k += count;
    if (++j == s.filter_width) {
      j = 0;
      ++i;
    }
  }
  return padded;
}

// kGradient: a lane is a channel under a tap, and lanes of one tap lie side by side. Returns
// whether terms are left out.
template <int kLanes>
LOWPREC_HD bool PackRun(const ConvBlock& block, const LeftPanel& panel, const ChannelRun& run,
                        float* out) {
  const ConvProduct& p = block.task.product;
  const ConvShape& s = p.shape;
  const int lanes = kLanes > 0 ? kLanes : run.lanes;
  bool padded = false;
  WindowPixel at(p, panel.k_begin);
  float* to = out + run.lane;
  for (int64_t k = panel.k_begin; k < panel.k_end;) {
    // A row of dy, or what of it belongs to the panel.
    const int64_t count = Min(s.out_width - at.w, panel.k_end - k);
    const int64_t h = at.h * s.stride_height - s.pad_top + run.i * s.dilation_height;
    const bool inside = h >= 0 && h < s.in_height;
    const float* row = block.source + run.channel;
    if (inside) row += block.layout.Pixel(at.image, h, 0) * s.in_channels;
    int64_t w = at.w * s.stride_width - s.pad_left + run.j * s.dilation_width;
    for (int64_t n = 0; n < count; ++n, w += s.stride_width, to += kRows) {
      if (inside && w >= 0 && w < s.in_width) {
        const float* from = row + w * s.in_channels;
        for (int lane = 0; lane < lanes; ++lane) to[lane] = from[lane];
      } else {
        for (int lane = 0; lane < lanes; ++lane) to[lane] = 0;
        padded = true;
      }
    }
    k += count;
    at.w += count - 1;
    at.Next(s.out_width, s.out_height);
  }
  return padded;
}

inline bool PackChannels(const ConvBlock& block, const LeftPanel& panel, const ChannelRun* runs,
                         int count, float* out) {
  bool padded = false;
  for (int r = 0; r < count; ++r) {
    bool some = false;
    switch (runs[r].lanes) {
      case 4:
        some = PackRun<4>(block, panel, runs[r], out);
        break;
      case 8:
        some = PackRun<8>(block, panel, runs[r], out);
        break;
      case 12:
        some = PackRun<12>(block, panel, runs[r], out);
        break;
      default:
        some = PackRun<0>(block, panel, runs[r], out);
    }
    padded = padded || some;
  }
  return padded;
}

// A panel of the left operand with kLeftOut where terms are left out, for the paths in which adding
// a zero is not the same: it may change -0, and makes NaN of infinity.
inline void MarkSkipped(const ConvBlock& block, const LeftPanel& panel, const WindowPixel* at,
                        const ChannelRun* runs, int run_count, const float* packed, float* marked) {
  const ConvProduct& p = block.task.product;
  const ConvShape& s = p.shape;
  const int64_t size = (panel.k_end - panel.k_begin) * kRows;
  for (int64_t i = 0; i < size; ++i) {
    marked[i] = NotLeftOut(packed[i]);
  }
  const float skip = FromBits<float>(kLeftOut);
  if (p.pass == ConvPass::kGradient) {
    WindowPixel pixel(p, panel.k_begin);
    for (int64_t k = panel.k_begin; k < panel.k_end; ++k, pixel.Next(s.out_width, s.out_height)) {
      for (int r = 0; r < run_count; ++r) {
        if (SourcePixel(p, block.layout, pixel, runs[r].i, runs[r].j) >= 0) continue;
        float* to = marked + (k - panel.k_begin) * kRows + runs[r].lane;
        for (int lane = 0; lane < runs[r].lanes; ++lane) to[lane] = skip;
      }
    }
    return;
  }
  const int64_t channels = p.pass == ConvPass::kBackward ? s.GroupOut() : s.GroupIn();
  for (int lane = 0; lane < panel.width; ++lane) {
    for (int64_t k = panel.k_begin; k < panel.k_end;) {
      const int64_t tap = k / channels;
      const int64_t end = Min((tap + 1) * channels, panel.k_end);
      const bool left_out =
          SourcePixel(p, block.layout, at[lane], tap / s.filter_width, tap % s.filter_width) < 0;
      for (; k < end; ++k) {
        if (left_out) marked[(k - panel.k_begin) * kRows + lane] = skip;
      }
    }
  }
}

LOWPREC_END_NAMESPACE

#endif  // TF_LOWPREC_CC_KERNELS_CONV2D_GATHER_H_
