// The loops of Conv2D, compiled once per instruction set.
#ifndef TF_LOWPREC_CC_KERNELS_CONV2D_LOOPS_H_
#define TF_LOWPREC_CC_KERNELS_CONV2D_LOOPS_H_

#include <cstdlib>

#include "cc/kernels/conv2d.h"
#include "cc/kernels/conv2d_window.h"
#include "cc/kernels/pack_loops.h"
#include "cc/kernels/tile_loops.h"

LOWPREC_BEGIN_NAMESPACE

// Lanes of a panel in kGradient that share tap (i, j): consecutive channels.
struct ChannelRun {
  int64_t i, j, channel;
  int lane, lanes;
};

inline int ChannelRuns(const ConvBlock& block, int64_t first_row, int width, ChannelRun* runs) {
  const ConvShape& s = block.product.shape;
  const int64_t channels = s.GroupIn();
  int count = 0;
  for (int lane = 0; lane < width; ++count) {
    const int64_t tap = (first_row + lane) / channels, c = (first_row + lane) % channels;
    const int lanes = static_cast<int>(Min(channels - c, width - lane));
    runs[count] = {tap / s.filter_width, tap % s.filter_width, block.group * channels + c, lane,
                   lanes};
    lane += lanes;
  }
  return count;
}

// kForward and kBackward: lanes are pixels, whose channels under a tap lie side by side. Returns
// whether terms are left out.
inline bool PackPixels(const ConvBlock& block, int64_t first_row, int width, float* out) {
  const ConvProduct& p = block.product;
  const ConvShape& s = p.shape;
  const int64_t channels = p.pass == ConvPass::kBackward ? s.GroupOut() : s.GroupIn();
  const int64_t step = p.SourceChannels();
  static_assert(kRows % 4 == 0, "lanes in fours");
  WindowPixel at[kRows];
  for (int lane = 0; lane < width; ++lane) at[lane] = WindowPixel(p, first_row + lane);
  bool padded = false;
  int64_t tap = block.k_begin / channels, c = block.k_begin % channels;
  for (int64_t k = block.k_begin; k < block.k_end; ++tap, c = 0) {
    const int64_t count = Min(channels - c, block.k_end - k);
    const int64_t i = tap / s.filter_width, j = tap % s.filter_width;
    const float* from[kRows] = {};
    for (int lane = 0; lane < width; ++lane) {
      const int64_t pixel = SourcePixel(p, at[lane], i, j);
      padded = padded || pixel < 0;
      if (pixel < 0) continue;
      from[lane] = block.source + (pixel - block.first_pixel) * step + block.group * channels + c;
    }
    float* to = out + (k - block.k_begin) * kRows;
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
  }
  return padded;
}

// kGradient: a lane is a channel under a tap, and lanes of one tap lie side by side. Returns
// whether terms are left out.
template <int kLanes>
LOWPREC_HD bool PackRun(const ConvBlock& block, const ChannelRun& run, float* out) {
  const ConvProduct& p = block.product;
  const ConvShape& s = p.shape;
  const int lanes = kLanes > 0 ? kLanes : run.lanes;
  bool padded = false;
  WindowPixel at(p, block.k_begin);
  float* to = out + run.lane;
  for (int64_t k = block.k_begin; k < block.k_end;) {
    // A row of dy, or what of it belongs to the block.
    const int64_t count = Min(s.out_width - at.w, block.k_end - k);
    const int64_t h = at.h * s.stride_height - s.pad_top + run.i * s.dilation_height;
    const bool inside = h >= 0 && h < s.in_height;
    const float* row = block.source + run.channel;
    if (inside) {
      row += ((at.image * s.in_height + h) * s.in_width - block.first_pixel) * s.in_channels;
    }
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

inline bool PackChannels(const ConvBlock& block, int64_t first_row, int width, float* out) {
  ChannelRun runs[kRows];
  const int count = ChannelRuns(block, first_row, width, runs);
  bool padded = false;
  for (int r = 0; r < count; ++r) {
    bool some = false;
    switch (runs[r].lanes) {
      case 4:
        some = PackRun<4>(block, runs[r], out);
        break;
      case 8:
        some = PackRun<8>(block, runs[r], out);
        break;
      case 12:
        some = PackRun<12>(block, runs[r], out);
        break;
      default:
        some = PackRun<0>(block, runs[r], out);
    }
    padded = padded || some;
  }
  return padded;
}

inline void ConvPackA(const ConvBlock& block, int64_t begin, int64_t end) {
  const int64_t length = block.k_end - block.k_begin;
  for (int64_t panel = begin; panel < end; ++panel) {
    const int64_t first_row = block.row_begin + panel * kRows;
    const int width = static_cast<int>(Min(block.row_end - first_row, kRows));
    float* out = block.packed_a + panel * length * kRows;
    if (block.product.pass == ConvPass::kGradient) {
      if (width < kRows) memset(out, 0, static_cast<size_t>(length * kRows) * sizeof(float));
      block.a_padded[panel] = PackChannels(block, first_row, width, out);
    } else {
      block.a_padded[panel] = PackPixels(block, first_row, width, out);
    }
    PanelRange range = block.a_range[panel];
    for (int64_t i = 0; i < length * kRows; ++i) Include(range, out[i]);
    block.a_range[panel] = range;
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

// A panel of the left operand with kLeftOut where terms are left out, for the paths in which adding
// a zero is not the same: it may change -0, and makes NaN of infinity.
inline void MarkSkipped(const ConvBlock& block, int64_t panel, const float* packed, float* marked) {
  const ConvProduct& p = block.product;
  const ConvShape& s = p.shape;
  const int64_t first_row = block.row_begin + panel * kRows;
  const int width = static_cast<int>(Min(block.row_end - first_row, kRows));
  const int64_t size = (block.k_end - block.k_begin) * kRows;
  for (int64_t i = 0; i < size; ++i) {
    marked[i] = NotLeftOut(packed[i]);
  }
  const float skip = FromBits<float>(kLeftOut);
  if (p.pass == ConvPass::kGradient) {
    ChannelRun runs[kRows];
    const int count = ChannelRuns(block, first_row, width, runs);
    WindowPixel at(p, block.k_begin);
    for (int64_t k = block.k_begin; k < block.k_end; ++k, at.Next(s.out_width, s.out_height)) {
      for (int r = 0; r < count; ++r) {
        if (SourcePixel(p, at, runs[r].i, runs[r].j) >= 0) continue;
        float* to = marked + (k - block.k_begin) * kRows + runs[r].lane;
        for (int lane = 0; lane < runs[r].lanes; ++lane) to[lane] = skip;
      }
    }
    return;
  }
  const int64_t channels = p.pass == ConvPass::kBackward ? s.GroupOut() : s.GroupIn();
  for (int lane = 0; lane < width; ++lane) {
    const WindowPixel at(p, first_row + lane);
    for (int64_t k = block.k_begin; k < block.k_end;) {
      const int64_t tap = k / channels;
      const int64_t end = Min((tap + 1) * channels, block.k_end);
      const bool left_out = SourcePixel(p, at, tap / s.filter_width, tap % s.filter_width) < 0;
      for (; k < end; ++k) {
        if (left_out) marked[(k - block.k_begin) * kRows + lane] = skip;
      }
    }
  }
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
