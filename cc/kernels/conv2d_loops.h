// The loops of Conv2D, compiled once per instruction set.
#ifndef TF_LOWPREC_CC_KERNELS_CONV2D_LOOPS_H_
#define TF_LOWPREC_CC_KERNELS_CONV2D_LOOPS_H_

#include <cstdlib>

#include "cc/kernels/conv2d.h"
#include "cc/kernels/pack_loops.h"
#include "cc/kernels/tile_loops.h"

LOWPREC_BEGIN_NAMESPACE

// A pixel of the images that windows belong to: outputs, or in kBackward inputs.
struct WindowPixel {
  int64_t image, h, w;

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

// The pixel of the left operand's image under tap (i, j) of a window; -1 where there is none.
LOWPREC_HD int64_t SourcePixel(const ConvProduct& product, const WindowPixel& at, int64_t i,
                               int64_t j) {
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
    return (at.image * s.out_height + oh) * s.out_width + ow;
  }
  const int64_t h = at.h * s.stride_height - s.pad_top + i * s.dilation_height;
  const int64_t w = at.w * s.stride_width - s.pad_left + j * s.dilation_width;
  if (h < 0 || w < 0 || h >= s.in_height || w >= s.in_width) return -1;
  return (at.image * s.in_height + h) * s.in_width + w;
}

// Calls f(k, count, lane, lanes, pixel, channel) for the runs of a panel of the left operand:
// `count` consecutive k of one lane, or one k of `lanes` consecutive lanes, that lie side by side
// in the image, from `channel` on. pixel is -1 where they are left out.
template <typename F>
LOWPREC_HD void ForRuns(const ConvBlock& block, int64_t first_row, int width, const F& f) {
  const ConvProduct& p = block.product;
  const ConvShape& s = p.shape;
  if (p.pass == ConvPass::kGradient) {
    const int64_t channels = s.GroupIn();
    struct {
      int64_t i, j, channel;
      int lane, lanes;
    } runs[kRows];
    int count = 0;
    for (int lane = 0; lane < width; ++count) {
      const int64_t tap = (first_row + lane) / channels, c = (first_row + lane) % channels;
      const int lanes = static_cast<int>(Min(channels - c, width - lane));
      runs[count] = {tap / s.filter_width, tap % s.filter_width, block.group * channels + c, lane,
                     lanes};
      lane += lanes;
    }
    WindowPixel at(p, block.k_begin);
    for (int64_t k = block.k_begin; k < block.k_end; ++k, at.Next(s.out_width, s.out_height)) {
      for (int r = 0; r < count; ++r) {
        f(k, 1, runs[r].lane, runs[r].lanes, SourcePixel(p, at, runs[r].i, runs[r].j),
          runs[r].channel);
      }
    }
    return;
  }
  const int64_t channels = p.pass == ConvPass::kBackward ? s.GroupOut() : s.GroupIn();
  for (int lane = 0; lane < width; ++lane) {
    const WindowPixel at(p, first_row + lane);
    int64_t tap = block.k_begin / channels, c = block.k_begin % channels;
    int64_t i = tap / s.filter_width, j = tap % s.filter_width;
    for (int64_t k = block.k_begin; k < block.k_end;) {
      const int64_t count = Min(channels - c, block.k_end - k);
      f(k, count, lane, 1, SourcePixel(p, at, i, j), block.group * channels + c);
      k += count;
      c = 0;
      if (++j == s.filter_width) {
        j = 0;
        ++i;
      }
    }
  }
}

inline void ConvPackA(const ConvBlock& block, int64_t begin, int64_t end) {
  const int64_t length = block.k_end - block.k_begin;
  const int64_t step = block.product.SourceChannels();
  for (int64_t panel = begin; panel < end; ++panel) {
    const int64_t first_row = block.row_begin + panel * kRows;
    const int width = static_cast<int>(Min(block.row_end - first_row, kRows));
    float* out = block.packed_a + panel * length * kRows;
    bool padded = false;
    if (width < kRows) memset(out, 0, static_cast<size_t>(length * kRows) * sizeof(float));
    ForRuns(block, first_row, width,
            [&](int64_t k, int64_t count, int lane, int lanes, int64_t pixel, int64_t channel) {
              float* to = out + (k - block.k_begin) * kRows + lane;
              padded = padded || pixel < 0;
              const float* from = block.source + (pixel - block.first_pixel) * step + channel;
              if (lanes > 1) {
                for (int i = 0; i < lanes; ++i) to[i] = pixel < 0 ? 0.0f : from[i];
              } else if (pixel < 0) {
                for (int64_t i = 0; i < count; ++i) to[i * kRows] = 0;
              } else {
                for (int64_t i = 0; i < count; ++i) to[i * kRows] = from[i];
              }
            });
    PanelRange range = block.a_range[panel];
    for (int64_t i = 0; i < length * kRows; ++i) Include(range, out[i]);
    block.a_range[panel] = range;
    block.a_padded[panel] = padded;
  }
}

// Panels of the right operand: filters, filters with their channels swapped, or dy.
inline void ConvPackB(const ConvBlock& block, int64_t begin, int64_t end, QuantizeFn quantize) {
  const ConvProduct& p = block.product;
  const ConvShape& s = p.shape;
  const int64_t length = block.k_end - block.k_begin;
  PackTask rounding;
  rounding.stages = block.b_stages;
  rounding.num_stages = block.num_b_stages;
  constexpr int64_t kPiece = 256;
  alignas(64) float rounded[kPiece];
  const auto load = [&](int64_t index, int64_t count) {  // `count` elements, rounded
    const float* x = block.b + index;
    if (rounding.num_stages == 0) return x;
    RoundStages(rounding, x, index, count, rounded, quantize);
    return static_cast<const float*>(rounded);
  };
  for (int64_t panel = begin; panel < end; ++panel) {
    const int64_t column = block.column_begin + panel * kColumns;
    const int width = static_cast<int>(Min(block.column_end - column, kColumns));
    float* out = block.packed_b + panel * length * kColumns;
    if (width < kColumns) memset(out, 0, static_cast<size_t>(length * kColumns) * sizeof(float));
    if (p.pass == ConvPass::kBackward) {
      // Element (k = (tap, o), column = c) is filters[tap, c, o].
      const int64_t outputs = s.GroupOut();
      for (int64_t k = block.k_begin; k < block.k_end;) {
        const int64_t tap = k / outputs, o = k % outputs;
        const int64_t count = Min(Min(outputs - o, block.k_end - k), kPiece);
        for (int lane = 0; lane < width; ++lane) {
          const int64_t row = tap * s.GroupIn() + column + lane;
          const float* from = load(row * s.out_channels + block.group * outputs + o, count);
          float* to = out + (k - block.k_begin) * kColumns + lane;
          for (int64_t i = 0; i < count; ++i) to[i * kColumns] = from[i];
        }
        k += count;
      }
    } else {
      for (int64_t k = block.k_begin; k < block.k_end; ++k) {
        const float* from = load(k * s.out_channels + block.group * s.GroupOut() + column, width);
        float* to = out + (k - block.k_begin) * kColumns;
        for (int lane = 0; lane < width; ++lane) to[lane] = from[lane];
      }
    }
    PanelRange range = block.b_range[panel];
    for (int64_t i = 0; i < length * kColumns; ++i) Include(range, out[i]);
    block.b_range[panel] = range;
  }
}

// A panel of the left operand with kSkip where terms are left out, for the paths in which adding a
// zero is not the same: it may change -0, and makes NaN of infinity.
inline void MarkSkipped(const ConvBlock& block, int64_t panel, const float* packed, float* marked) {
  const int64_t first_row = block.row_begin + panel * kRows;
  const int width = static_cast<int>(Min(block.row_end - first_row, kRows));
  const int64_t size = (block.k_end - block.k_begin) * kRows;
  for (int64_t i = 0; i < size; ++i) {
    marked[i] = ToBits<float>(packed[i]) == kSkip ? FromBits<float>(kCanonicalNan) : packed[i];
  }
  ForRuns(block, first_row, width,
          [&](int64_t k, int64_t count, int lane, int lanes, int64_t pixel, int64_t) {
            if (pixel >= 0) return;
            float* to = marked + (k - block.k_begin) * kRows + lane;
            for (int64_t i = 0; i < count; ++i) {
              for (int j = 0; j < lanes; ++j) to[i * kRows + j] = FromBits<float>(kSkip);
            }
          });
}

// Tiles in columns of tiles: those that follow each other share a panel of b.
inline void ConvMultiply(const ConvBlock& block, int64_t begin, int64_t end) {
  const ConvProduct& p = block.product;
  const int64_t length = block.k_end - block.k_begin;
  const int64_t row_panels = block.RowPanels(kRows);
  TileTask* tiles = static_cast<TileTask*>(block.tiles);
  float* scratch = nullptr;
  for (int64_t i = begin; i < end; ++i) {
    const int64_t row_panel = i % row_panels, column_panel = i / row_panels;
    const int64_t row = block.row_begin + row_panel * kRows;
    const int64_t column = block.column_begin + column_panel * kColumns;
    const int64_t element = row * p.ResultStep() + block.group * p.Columns() + column;
    TileTask& tile = tiles[i];
    if (block.k_begin == 0) {
      tile.accumulator = block.accumulator;
      tile.k = p.Length();
      tile.random_bits = nullptr;
      tile.rows = static_cast<int>(Min(block.row_end - row, kRows));
      tile.columns = static_cast<int>(Min(block.column_end - column, kColumns));
      StartTile(tile, element, p.ResultStep(), block.seed, block.stream);
    }
    tile.a = block.packed_a + row_panel * length * kRows;
    tile.b = block.packed_b + column_panel * length * kColumns;
    tile.k_begin = block.k_begin;
    tile.k_end = block.k_end;
    const PathChoice choice =
        ChoosePath(block.accumulator, block.a_spec, block.b_spec, block.a_range[row_panel],
                   block.b_range[column_panel], tile.k, kSupport);
    tile.masked = block.a_padded[row_panel] != 0 &&
                  (choice.path == AccumulationPath::kExact || choice.may_underflow);
    if (tile.masked) {
      if (scratch == nullptr) {
        scratch = static_cast<float*>(malloc(static_cast<size_t>(length * kRows) * sizeof(float)));
        if (scratch == nullptr) {
          __atomic_store_n(block.out_of_memory, true, __ATOMIC_RELAXED);
          return;
        }
      }
      MarkSkipped(block, row_panel, tile.a, scratch);
      tile.a = scratch;
    }
    RunTile(tile, choice);
    if (block.k_end == tile.k) {
      for (int j = 0; j < tile.rows; ++j) {
        memcpy(block.c + element + j * p.ResultStep(), tile.Result()[j],
               static_cast<size_t>(tile.columns) * sizeof(float));
      }
    }
  }
  free(scratch);
}

LOWPREC_END_NAMESPACE

#endif  // TF_LOWPREC_CC_KERNELS_CONV2D_LOOPS_H_
