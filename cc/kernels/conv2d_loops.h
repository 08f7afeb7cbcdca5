// The loops of Conv2D, compiled once per instruction set.
#ifndef TF_LOWPREC_CC_KERNELS_CONV2D_LOOPS_H_
#define TF_LOWPREC_CC_KERNELS_CONV2D_LOOPS_H_

#include <cstdlib>

#include "cc/kernels/conv2d.h"
#include "cc/kernels/conv2d_drift.h"
#include "cc/kernels/conv2d_pack.h"
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

// A piece of a panel of the left operand stays in the first-level cache.
constexpr int64_t kDepth = 256;

// Panels of rows that take turns, so that one of the right operand is read once for all of them.
constexpr int kPanelsTogether = 4;

// What a thread needs: pieces of such panels, or of one that may have to be marked and widened.
union ConvScratch {
  alignas(64) float packed[kPanelsTogether][kDepth * kRows];
  struct {
    alignas(64) float packed[kDepth * kRows];
    alignas(64) float marked[kDepth * kRows];
    alignas(64) double wide[kDepth * kRows];
  } alone;
};

// The index-th panel of rows of a group.
inline LeftPanel PanelAt(const ConvBlock& block, int64_t group, int64_t index) {
  const int64_t panels = block.StretchPanels(kRows);
  const int64_t inside = index % panels * kRows;
  return {group, block.row_begin + index / panels * block.stretch + inside,
          static_cast<int>(Min(block.stretch - inside, kRows)), block.k_begin, block.k_end};
}

inline void StartTiles(const ConvBlock& block, const LeftPanel& panel, int64_t first, int64_t last,
                       TileTask* tiles) {
  const ConvTask& task = block.task;
  const ConvProduct& p = task.product;
  for (int64_t j = first; j < last; ++j) {
    TileTask& tile = tiles[j - first];
    const int64_t column = block.column_begin + j * kColumns;
    tile.accumulator = task.accumulator;
    tile.k = p.Length();
    tile.random_bits = nullptr;
    tile.history = nullptr;
    tile.a_bounds = tile.b_bounds = {};
    tile.rows = panel.width;
    tile.columns = static_cast<int>(Min(block.column_end - column, kColumns));
    const int64_t element = panel.first_row * p.ResultStep() + panel.group * p.Columns() + column;
    StartTile(tile, element, p.ResultStep(), task.seed, task.stream);
  }
}

inline void StoreTiles(const ConvBlock& block, const LeftPanel& panel, int64_t first, int64_t last,
                       const TileTask* tiles) {
  const ConvProduct& p = block.task.product;
  const int64_t element = panel.first_row * p.ResultStep() + panel.group * p.Columns();
  for (int64_t j = first; j < last; ++j) {
    const TileTask& tile = tiles[j - first];
    StoreTile(tile, block.task.c + element + block.column_begin + j * kColumns, p.ResultStep());
  }
}

inline const float* RightPanel(const ConvBlock& block, int64_t group, int64_t column_panel,
                               int64_t k) {
  const int64_t index = (group - block.group_begin) * block.ColumnPanels(kColumns) + column_panel;
  return block.packed_b + (index * (block.k_end - block.k_begin) + k - block.k_begin) * kColumns;
}

// Where a panel's lanes begin in the padded image: kForward and kBackward.
inline void FindLanes(const ConvBlock& block, const LeftPanel& panel, const float** lanes) {
  const ConvProduct& p = block.task.product;
  const ConvShape& s = p.shape;
  const bool backward = p.pass == ConvPass::kBackward;
  const int64_t group_channels = backward ? s.GroupOut() : s.GroupIn();
  const int64_t stride_h = backward ? 1 : s.stride_height, stride_w = backward ? 1 : s.stride_width;
  WindowPixel at(p, panel.first_row);
  const int64_t first_image = block.row_begin / p.RowsOfImage();
  for (int lane = 0; lane < kRows; ++lane) {
    const int64_t pixel = (at.image - first_image) * block.layout.image_step +
                          at.h * stride_h * block.layout.row_step + at.w * stride_w;
    lanes[lane] = block.source + pixel * p.SourceChannels() + panel.group * group_channels;
    if (lane + 1 < panel.width) {
      at.Next(backward ? s.in_width : s.out_width, backward ? s.in_height : s.out_height);
    }
  }
}

// Whole sums of some panels of rows that take turns, in kForward and kBackward.
inline void MultiplyInPlace(const ConvBlock& block, const LeftPanel* panels, int count,
                            int64_t first, int64_t last, const PathChoice& choice, TileTask* tile,
                            RandomHistory* history) {
  static_assert(sizeof(TileRun) == sizeof(ConvRun), "one struct for every instruction set");
  const float* lanes[kPanelsTogether][kRows];
  for (int i = 0; i < count; ++i) FindLanes(block, panels[i], lanes[i]);
  for (int64_t j = first; j < last; ++j) {
    for (int i = 0; i < count; ++i) {
      StartTiles(block, panels[i], j, j + 1, tile);
      tile->history = history;
      tile->drift = block.drift;
      tile->lanes = lanes[i];
      tile->runs = reinterpret_cast<const TileRun*>(block.runs);
      tile->k_begin = 0;
      tile->k_end = tile->k;
      tile->b = RightPanel(block, panels[i].group, j, 0);
      RunTileInPlace(*tile, choice);
      StoreTiles(block, panels[i], j, j + 1, tile);
    }
  }
}

// Adds the block's terms to the tiles of some panels of rows and of the column panels [first,
// last), from pieces of the panels that are copied out of the padded image, where elements of a
// lane may lie a power of two apart, and so in few lines of the cache: kGradient. The panels take
// turns as in MultiplyInPlace; they are neighbours in the image, too.
inline void AddCopied(const ConvBlock& block, const LeftPanel* panels, int count, int64_t first,
                      int64_t last, const PathChoice& choice, TileTask* tiles,
                      ConvScratch* scratch) {
  const ConvShape& s = block.task.product.shape;
  const float* lanes[kPanelsTogether];
  for (int i = 0; i < count; ++i) {
    const int64_t tap = panels[i].first_row / s.GroupIn(), c = panels[i].first_row % s.GroupIn();
    const int64_t h = tap / s.filter_width * s.dilation_height;
    const int64_t w = tap % s.filter_width * s.dilation_width;
    lanes[i] = block.source + (h * block.layout.row_step + w) * s.in_channels +
               panels[i].group * s.GroupIn() + c;
  }
  const int64_t step = s.stride_width * s.in_channels;
  for (int64_t run = 0, k = block.k_begin; run < block.num_runs;) {
    const int64_t k_begin = k, most = k_begin + kDepth;
    while (run < block.num_runs && k < most) {
      const ConvRun& here = block.runs[run];
      const int64_t k_end = Min(here.k_end, most);
      for (int i = 0; i < count; ++i) {
        const float* from = lanes[i] + here.offset + (k - here.k_begin) * step;
        float* to = scratch->packed[i] + (k - k_begin) * kRows;
        for (int64_t n = k; n < k_end; ++n, from += step, to += kRows) {
          memcpy(to, from, kRows * sizeof(float));
        }
      }
      k = k_end;
      run += k == here.k_end;
    }
    WidePanel wide = {scratch->alone.wide};
    for (int64_t column = first; column < last; ++column) {
      for (int i = 0; i < count; ++i) {
        TileTask& tile = tiles[i * (last - first) + column - first];
        tile.drift = block.drift;
        tile.a = scratch->packed[i];
        tile.wide = count == 1 ? &wide : nullptr;
        tile.k_begin = k_begin;
        tile.k_end = k;
        tile.b = RightPanel(block, panels[i].group, column, k_begin);
        RunTile(tile, choice);
      }
    }
  }
}

// The same for any operands, from pieces of the panel that are packed.
inline void AddPacked(const ConvBlock& block, LeftPanel panel, int64_t first, int64_t last,
                      TileTask* tiles, PanelRange* range, ConvScratch* scratch) {
  const ConvTask& task = block.task;
  const ConvProduct& p = task.product;
  const bool gradient = p.pass == ConvPass::kGradient;
  const int64_t group_panels = (panel.group - block.group_begin) * block.ColumnPanels(kColumns);
  float* const packed = scratch->alone.packed;
  WindowPixel at[kRows];
  ChannelRun runs[kRows];
  int run_count = 0;
  if (gradient) {
    run_count = ChannelRuns(p.shape, panel, runs);
    if (panel.width < kRows) memset(packed, 0, sizeof(scratch->alone.packed));
  } else {
    for (int lane = 0; lane < panel.width; ++lane) {
      at[lane] = WindowPixel(p, panel.first_row + lane);
    }
  }
  for (panel.k_begin = block.k_begin; panel.k_begin < block.k_end; panel.k_begin = panel.k_end) {
    panel.k_end = Min(panel.k_begin + kDepth, block.k_end);
    const bool padded = gradient ? PackChannels(block, panel, runs, run_count, packed)
                                 : PackPixels(block, panel, at, packed);
    PanelRange seen = *range;
    const int64_t size = (panel.k_end - panel.k_begin) * kRows;
    for (int64_t i = 0; i < size; ++i) Include(seen, packed[i]);
    *range = seen;
    bool is_marked = false;
    WidePanel wide = {scratch->alone.wide};
    for (int64_t j = first; j < last; ++j) {
      TileTask& tile = tiles[j - first];
      tile.drift = block.drift;
      tile.a = packed;
      tile.wide = &wide;
      tile.b = RightPanel(block, panel.group, j, panel.k_begin);
      tile.k_begin = panel.k_begin;
      tile.k_end = panel.k_end;
      const PathChoice choice = ChoosePath(task.accumulator, task.a_spec, task.b_spec, seen,
                                           block.b_range[group_panels + j], tile.k, kSupport);
      tile.masked = padded && !TakesAnyLayout(choice);
      if (tile.masked) {
        if (!is_marked) {
          MarkSkipped(block, panel, at, runs, run_count, packed, scratch->alone.marked);
        }
        is_marked = true;
        tile.a = scratch->alone.marked;
      }
      RunTile(tile, choice);
    }
  }
}

inline void ConvMultiply(const ConvBlock& block, int64_t begin, int64_t end) {
  const ConvTask& task = block.task;
  const int64_t row_panels = block.RowPanels(kRows), column_panels = block.ColumnPanels(kColumns);
  const int64_t most = (column_panels + block.column_groups - 1) / block.column_groups;
  const PathChoice choice = ChoiceOf(block);
  const bool in_place = block.num_runs > 0 && TakesAnyLayout(choice);
  const bool gradient = task.product.pass == ConvPass::kGradient;
  int64_t together = in_place ? kPanelsTogether : 1;
  if (gradient) {  // all their tiles are on their way at once; there is room to widen one panel
    constexpr int64_t kMostTiles = (512 << 10) / sizeof(TileTask);
    together = IsFastest(choice) ? Max(Min(together, kMostTiles / most), 1) : 1;
  }
  const int64_t tiles_size = block.tiles != nullptr ? 0 : gradient ? most * together : most;
  // Memory of the thread's own: pieces of the left operand, and sums unless they are kept.
  const size_t bytes =
      sizeof(ConvScratch) + static_cast<size_t>(tiles_size) * sizeof(TileTask) + 64;
  char* memory = static_cast<char*>(malloc(bytes));
  if (memory == nullptr) {
    __atomic_store_n(block.out_of_memory, true, __ATOMIC_RELAXED);
    return;
  }
  char* aligned = memory + (64 - reinterpret_cast<uintptr_t>(memory) % 64) % 64;
  ConvScratch* scratch = reinterpret_cast<ConvScratch*>(aligned);
  TileTask* own = reinterpret_cast<TileTask*>(aligned + sizeof(ConvScratch));
  RandomHistory history;
  for (int64_t unit = begin; unit < end; ++unit) {
    const int64_t row_panel = unit / block.column_groups % row_panels;
    const int64_t group = unit / block.column_groups / row_panels;
    const int64_t column_group = unit % block.column_groups;
    const int64_t first = Min(column_group * most, column_panels);
    const int64_t last = Min(first + most, column_panels);
    if (first == last) continue;
    LeftPanel panels[kPanelsTogether] = {PanelAt(block, block.group_begin + group, row_panel)};
    int count = 1;
    // Units that follow are panels of rows too, if the columns are not divided.
    while (block.column_groups == 1 && count < together && unit + 1 < end &&
           row_panel + count < row_panels) {
      panels[count] = PanelAt(block, block.group_begin + group, row_panel + count);
      ++count;
      ++unit;
    }
    if (in_place && !gradient) {
      MultiplyInPlace(block, panels, count, first, last, choice, own, &history);
      continue;
    }
    TileTask* tiles = own;
    PanelRange own_range, *range = &own_range;
    if (block.tiles != nullptr) {
      const int64_t index = group * row_panels + row_panel;
      tiles = static_cast<TileTask*>(block.tiles) + index * column_panels + first;
      range = block.a_range + index * block.column_groups + column_group;
    }
    const auto for_each_panel = [&](const auto& f) {
      for (int i = 0; i < count; ++i) f(block, panels[i], first, last, tiles + i * (last - first));
    };
    if (block.k_begin == 0) for_each_panel(StartTiles);
    if (in_place) {
      AddCopied(block, panels, count, first, last, choice, tiles, scratch);
    } else {
      AddPacked(block, panels[0], first, last, tiles, range, scratch);
    }
    if (block.k_end == task.product.Length()) for_each_panel(StoreTiles);
  }
  free(memory);
}

// Copies rows of images, rounded, with their padding around them: [begin, end) of the block's
// padded rows. `plan` and the block's first image say where from.
inline void ConvPad(const ConvBlock& block, const ConvPlan& plan, int64_t first_image,
                    int64_t begin, int64_t end, float* out, PanelRange* range,
                    QuantizeFn quantize) {
  const ConvTask& task = block.task;
  const ConvProduct& p = task.product;
  const bool backward = p.pass == ConvPass::kBackward;
  const int64_t height = backward ? p.shape.out_height : p.shape.in_height;
  const int64_t width = backward ? p.shape.out_width : p.shape.in_width;
  const int64_t channels = p.SourceChannels();
  PackTask rounding;
  rounding.stages = task.a_stages;
  rounding.num_stages = task.num_a_stages;
  PanelRange seen;
  for (int64_t row = begin; row < end; ++row) {
    const int64_t h = row % plan.padded_height - plan.top;
    float* to = out + row * plan.padded_width * channels;
    if (h < 0 || h >= height) {
      memset(to, 0, static_cast<size_t>(plan.padded_width * channels) * sizeof(float));
      continue;
    }
    const int64_t copied = Min(width, plan.padded_width - plan.left);
    const int64_t size = copied * channels, before = plan.left * channels;
    const int64_t after = (plan.padded_width - plan.left - copied) * channels;
    const int64_t index =
        ((first_image + row / plan.padded_height) * height + h) * width * channels;
    memset(to, 0, static_cast<size_t>(before) * sizeof(float));
    if (rounding.num_stages > 0) {
      RoundStages(rounding, task.image + index, index, size, to + before, quantize);
    } else {
      memcpy(to + before, task.image + index, static_cast<size_t>(size) * sizeof(float));
    }
    memset(to + before + size, 0, static_cast<size_t>(after) * sizeof(float));
    PanelRange here = seen;
    for (int64_t i = 0; i < size; ++i) Include(here, to[before + i]);
    seen = here;
  }
  Merge(*range, seen);
}

LOWPREC_END_NAMESPACE

#endif  // TF_LOWPREC_CC_KERNELS_CONV2D_LOOPS_H_
