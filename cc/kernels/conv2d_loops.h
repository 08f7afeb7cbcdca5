// The loops of Conv2D, compiled once per instruction set.
#ifndef TF_LOWPREC_CC_KERNELS_CONV2D_LOOPS_H_
#define TF_LOWPREC_CC_KERNELS_CONV2D_LOOPS_H_

#include <cstdlib>

#include "cc/kernels/conv2d.h"
#include "cc/kernels/conv2d_gather.h"
#include "cc/kernels/conv2d_pack.h"
#include "cc/kernels/conv2d_window.h"
#include "cc/kernels/pack_loops.h"
#include "cc/kernels/tile.h"

LOWPREC_BEGIN_NAMESPACE

// A piece of a panel of the left operand stays in the first-level cache.
constexpr int64_t kDepth = 256;
constexpr size_t kCacheLine = 64;

// Panels of rows that take turns, so that one of the right operand is read once for all of them.
constexpr int kPanelsTogether = 4;
// And in kGradient those that take turns with all that the caches hold of both operands.
constexpr int kMostPanels = 12;

// What a thread needs: pieces of kPanelsTogether panels, or of one that may have to be marked and
// widened.
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

// Where a panel's lanes begin in the padded image, and in the result: kForward and kBackward.
struct PanelLanes {
  const float* source[kRows];
  float* result[kRows];
};

inline void FindLanes(const ConvBlock& block, const LeftPanel& panel, PanelLanes* lanes) {
  const ConvProduct& p = block.task.product;
  const ConvShape& s = p.shape;
  const PixelGrid& grid = block.grid;
  const bool backward = p.pass == ConvPass::kBackward;
  const int64_t width = backward ? s.in_width : s.out_width;
  const int64_t height = backward ? s.in_height : s.out_height;
  const int64_t channels = backward ? s.GroupOut() : s.GroupIn();
  // The source's rows and columns that the grid's are apart, and those where it begins.
  const int64_t step_h = backward ? 1 : s.stride_height, step_w = backward ? 1 : s.stride_width;
  const int64_t first_h = backward ? (grid.first_h + s.pad_top) / s.stride_height : 0;
  const int64_t first_w = backward ? (grid.first_w + s.pad_left) / s.stride_width : 0;
  const int64_t first_image = block.row_begin / grid.Pixels();
  const int64_t source_step = step_w * p.SourceChannels();
  const int64_t result_step = grid.step_w * p.ResultStep();
  int64_t image = panel.first_row / grid.Pixels(), in_image = panel.first_row % grid.Pixels();
  int64_t i = in_image / grid.width, j = in_image % grid.width;
  for (int lane = 0; lane < kRows;) {
    const int64_t source_pixel = (image - first_image) * block.layout.image_step +
                                 (first_h + i * step_h) * block.layout.row_step + first_w;
    const int64_t h = grid.first_h + i * grid.step_h;
    const int64_t result_pixel = (image * height + h) * width + grid.first_w;
    const float* source =
        block.source + source_pixel * p.SourceChannels() + panel.group * channels + j * source_step;
    float* result =
        block.task.c + result_pixel * p.ResultStep() + panel.group * p.Columns() + j * result_step;
    // Lanes beyond the panel's are as its last.
    const bool ends = panel.width - lane <= grid.width - j;
    const int end = ends ? kRows : lane + static_cast<int>(grid.width - j);
    for (; lane < end; ++lane) {
      lanes->source[lane] = source;
      lanes->result[lane] = result;
      if (lane + 1 >= panel.width) continue;
      source += source_step;
      result += result_step;
    }
    j = 0;
    if (++i < grid.height) continue;
    i = 0;
    ++image;
  }
}

// One way for the whole block, if all its values allow it.
inline PathChoice ChoiceOf(const ConvBlock& block) {
  const ConvTask& task = block.task;
  if (block.num_runs == 0) return {};
  const PanelRange right = RangeOf(block.b_range, block.Groups() * block.ColumnPanels(kColumns));
  return ChoosePath(task.accumulator, task.a_spec, task.b_spec, block.source_range, right,
                    task.product.Length(), kSupport);
}

// Random numbers are drawn for what is left out, too.
inline bool MaySkip(const ConvBlock& block) {
  const PathChoice choice = ChoiceOf(block);
  return TakesAnyLayout(choice) && choice.path != AccumulationPath::kStochastic;
}

// Whole sums of some panels of rows that take turns, in kForward and kBackward.
inline void MultiplyInPlace(const ConvBlock& block, const LeftPanel* panels, int count,
                            int64_t first, int64_t last, const PathChoice& choice, TileTask* tile,
                            RandomHistory* history) {
  static_assert(sizeof(TileRun) == sizeof(ConvRun), "one struct for every instruction set");
  PanelLanes lanes[kPanelsTogether];
  for (int i = 0; i < count; ++i) FindLanes(block, panels[i], &lanes[i]);
  for (int64_t j = first; j < last; ++j) {
    for (int i = 0; i < count; ++i) {
      StartTiles(block, panels[i], j, j + 1, tile);
      tile->history = history;
      tile->lanes = lanes[i].source;
      tile->runs = reinterpret_cast<const TileRun*>(block.runs);
      tile->k_begin = 0;
      tile->k_end = tile->k;
      tile->b = RightPanel(block, panels[i].group, j, 0);
      RunTileInPlace(*tile, choice);
      const int64_t column = block.column_begin + j * kColumns;
      for (int row = 0; row < tile->rows; ++row)
        StoreRow(*tile, row, lanes[i].result[row] + column);
    }
  }
}

// Adds runs [run, end_run) to the tiles of some panels of rows and of the column panels [first,
// last), a piece of k at a time: kGradient. The panels take turns as in MultiplyInPlace; they are
// neighbours in the padded image, too. Pieces are used in place where a line of the cache, or less,
// lies between a lane's elements: if it is more, these may lie in few lines, and are copied.
inline void AddPieces(const ConvBlock& block, int64_t run, int64_t end_run, const LeftPanel* panels,
                      int count, int64_t first, int64_t last, const PathChoice& choice,
                      TileTask* tiles, ConvScratch* scratch) {
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
  const bool copies = step * sizeof(float) > kCacheLine || !IsFastest(choice);
  for (int64_t k = block.runs[run].k_begin; run < end_run;) {
    const int64_t first_run = run, k_begin = k, most = k_begin + kDepth;
    while (run < end_run && k < most) {
      const ConvRun& here = block.runs[run];
      const int64_t k_end = Min(here.k_end, most);
      for (int i = 0; copies && i < count; ++i) {
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
        tile.a = copies ? scratch->packed[i] : lanes[i];
        tile.a_step = copies ? kRows : step;
        tile.runs = copies ? nullptr : reinterpret_cast<const TileRun*>(block.runs + first_run);
        tile.wide = copies && count == 1 ? &wide : nullptr;
        tile.k_begin = k_begin;
        tile.k_end = k;
        tile.b = RightPanel(block, panels[i].group, column, k_begin);
        RunTile(tile, choice);
      }
    }
  }
}

// All runs, in parts for which both operands stay in the second-level cache until all panels had
// their turns.
inline void AddParts(const ConvBlock& block, const LeftPanel* panels, int count, int64_t first,
                     int64_t last, const PathChoice& choice, TileTask* tiles,
                     ConvScratch* scratch) {
  constexpr int64_t kCache = (512 << 10) / sizeof(float);
  const ConvShape& s = block.task.product.shape;
  const int64_t of_term = s.stride_width * s.in_channels + (last - first) * kColumns;
  const int64_t most = count > kPanelsTogether ? kCache / of_term : block.k_end;
  for (int64_t run = 0; run < block.num_runs;) {
    int64_t end_run = run + 1;
    while (end_run < block.num_runs &&
           block.runs[end_run].k_end - block.runs[run].k_begin <= most) {
      ++end_run;
    }
    for (int i = 0; i < count; i += kPanelsTogether) {
      AddPieces(block, run, end_run, panels + i, Min(count - i, kPanelsTogether), first, last,
                choice, tiles + i * (last - first), scratch);
    }
    run = end_run;
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
      tile.a = packed;
      tile.a_step = kRows;
      tile.runs = nullptr;  // sums that go on from another block may have had some
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
    constexpr int64_t kFewTiles = (128 << 10) / sizeof(TileTask), kMostTiles = 4 * kFewTiles;
    together = Max(Min(kMostPanels, kFewTiles / most), Min(kPanelsTogether, kMostTiles / most));
    if (together == 0 || !IsFastest(choice)) together = 1;
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
    LeftPanel panels[kMostPanels];
    panels[0] = PanelAt(block, block.group_begin + group, row_panel);
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
      AddParts(block, panels, count, first, last, choice, tiles, scratch);
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
