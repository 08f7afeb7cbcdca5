#include "cc/kernels/conv2d.h"

#include <algorithm>
#include <vector>

#include "cc/kernels/cpu_features.h"

namespace tf_lowprec {

Conv2D Conv2DPortable();
#if defined(__x86_64__)
Conv2D Conv2DAvx2();
Conv2D Conv2DAvx512();
#endif

Conv2D ChooseConv2D() {
  switch (ChooseIsa()) {
#if defined(__x86_64__)
    case Isa::kAvx512:
      return Conv2DAvx512();
    case Isa::kAvx2:
      return Conv2DAvx2();
#endif
    default:
      return Conv2DPortable();
  }
}

namespace {

int64_t CeilOf(int64_t a, int64_t b) { return (a + b - 1) / b; }
int64_t RoundUp(int64_t a, int64_t b) { return CeilOf(a, b) * b; }

// The largest multiple of `unit` up to `most` and what is needed for `total`; at least one.
int64_t Step(int64_t total, int64_t most, int64_t unit) {
  return std::max(std::min(RoundUp(total, unit), most / unit * unit), unit);
}

// The pixels that rows (or, in kGradient, terms) [begin, end) gather from: [*first, *last).
void Source(const ConvProduct& product, int64_t begin, int64_t end, int64_t* first, int64_t* last) {
  const ConvShape& s = product.shape;
  const int64_t reach = (s.filter_height - 1) * s.dilation_height;
  // Whole rows of the images, from the highest that the first row's window touches to the lowest
  // that the last one's does.
  const bool backward = product.pass == ConvPass::kBackward;
  const int64_t width = backward ? s.in_width : s.out_width;
  const int64_t height = backward ? s.in_height : s.out_height;
  const int64_t source_width = backward ? s.out_width : s.in_width;
  const int64_t source_height = backward ? s.out_height : s.in_height;
  const auto clamp = [&](int64_t h) { return std::min(std::max<int64_t>(h, 0), source_height); };
  const int64_t top = begin / width, bottom = (end - 1) / width;
  int64_t low, high;
  if (backward) {
    low = (top % height + s.pad_top - reach) / s.stride_height - 1;
    high = (bottom % height + s.pad_top) / s.stride_height + 1;
  } else {
    low = top % height * s.stride_height - s.pad_top;
    high = bottom % height * s.stride_height - s.pad_top + reach + 1;
  }
  *first = (top / height * source_height + clamp(low)) * source_width;
  *last = (bottom / height * source_height + clamp(high)) * source_width;
}

// Whether panels can take the left operand from images with their padding around them, and how
// large those are then.
bool PlanPadding(const ConvTask& task, int rows, const ConvBudget& budget, ConvPlan* plan) {
  const ConvProduct& p = task.product;
  const ConvShape& s = p.shape;
  const int64_t reach_h = (s.filter_height - 1) * s.dilation_height;
  const int64_t reach_w = (s.filter_width - 1) * s.dilation_width;
  const bool backward = p.pass == ConvPass::kBackward;
  // Within a filter's row k runs through memory, if nothing lies between its taps.
  const bool dense = s.groups == 1 && s.dilation_width == 1;
  const int64_t across = dense ? s.filter_width * s.in_channels : s.GroupIn();
  int64_t run = 0;
  if (backward) {
    if (s.pad_top > reach_h || s.pad_left > reach_w) return false;
    plan->top = (reach_h - s.pad_top) / s.stride_height;
    plan->left = (reach_w - s.pad_left) / s.stride_width;
    plan->padded_height = plan->top + (s.in_height - 1 + s.pad_top) / s.stride_height + 1;
    plan->padded_width = plan->left + (s.in_width - 1 + s.pad_left) / s.stride_width + 1;
    run = s.GroupOut();
  } else {
    plan->top = s.pad_top;
    plan->left = s.pad_left;
    plan->padded_height = (s.out_height - 1) * s.stride_height + reach_h + 1;
    plan->padded_width = (s.out_width - 1) * s.stride_width + reach_w + 1;
    run = across;
    if (p.pass == ConvPass::kGradient) {
      if (!dense && across < rows) return false;
      plan->stretch = across;
      run = s.out_width;
    }
  }
  const int64_t pixels = (backward ? s.OutPixels() : s.InPixels()) / std::max<int64_t>(s.batch, 1);
  const int64_t padded = plan->padded_height * plan->padded_width;
  constexpr int64_t kShortestRun = 6;  // so that its start costs little
  return plan->top >= 0 && plan->left >= 0 && plan->left < plan->padded_width &&
         run >= kShortestRun && padded <= 4 * pixels &&
         padded * p.SourceChannels() * 4 <= budget.source;
}

// The runs of k that a block's panels gather from padded images.
std::vector<ConvRun> Runs(const ConvProduct& p, const ConvPlan& plan, const PixelGrid& grid,
                          int64_t k_begin, int64_t k_end) {
  const ConvShape& s = p.shape;
  const int64_t channels = p.SourceChannels(), width = plan.padded_width;
  std::vector<ConvRun> runs;
  const auto add = [&](int64_t pixel, int64_t begin, int64_t length) {
    runs.push_back({pixel * channels, begin, begin + length});
  };
  if (p.pass == ConvPass::kGradient) {
    int64_t k = k_begin;
    for (int64_t n = 0; k < k_end; ++n) {
      for (int64_t h = 0; h < s.out_height; ++h, k += s.out_width) {
        add((n * plan.padded_height + h * s.stride_height) * width, k, s.out_width);
      }
    }
    return runs;
  }
  if (p.pass == ConvPass::kForward) {
    const bool dense = s.groups == 1 && s.dilation_width == 1;
    const int64_t taps = dense ? s.filter_width : 1;
    for (int64_t i = 0; i < s.filter_height; ++i) {
      for (int64_t j = 0; j < s.filter_width; j += taps) {
        add(i * s.dilation_height * width + j * s.dilation_width,
            (i * s.filter_width + j) * s.GroupIn(), taps * s.GroupIn());
      }
    }
    return runs;
  }
  // Under a tap an error lies where its distance to the pixel is a multiple of the stride.
  const int64_t rest_h = (grid.first_h + s.pad_top) % s.stride_height;
  const int64_t rest_w = (grid.first_w + s.pad_left) % s.stride_width;
  for (int64_t i = 0; i < s.filter_height; ++i) {
    const int64_t h = i * s.dilation_height;
    if (h % s.stride_height != rest_h) continue;
    for (int64_t j = 0; j < s.filter_width; ++j) {
      const int64_t w = j * s.dilation_width;
      if (w % s.stride_width != rest_w) continue;
      add((plan.top - h / s.stride_height) * width + plan.left - w / s.stride_width,
          (i * s.filter_width + j) * s.GroupOut(), s.GroupOut());
    }
  }
  add(0, p.Length(), 0);  // what is left out may reach to the end
  return runs;
}

// The rows of a block in kForward and kBackward, in parts that have the same runs: those whose
// pixels lie at the same distances from a stride's multiples.
std::vector<PixelGrid> Grids(const ConvProduct& p) {
  const ConvShape& s = p.shape;
  if (p.pass == ConvPass::kForward) return {{0, 0, 1, 1, s.out_height, s.out_width}};
  std::vector<PixelGrid> grids;
  for (int64_t h = 0; h < std::min(s.stride_height, s.in_height); ++h) {
    for (int64_t w = 0; w < std::min(s.stride_width, s.in_width); ++w) {
      grids.push_back({h, w, s.stride_height, s.stride_width,
                       CeilOf(s.in_height - h, s.stride_height),
                       CeilOf(s.in_width - w, s.stride_width)});
    }
  }
  return grids;
}

}  // namespace

ConvPlan PlanConv2D(const Conv2D& kernel, const ConvTask& task, int threads,
                    const ConvBudget& budget) {
  const ConvProduct& p = task.product;
  const ConvShape& s = p.shape;
  const bool gradient = p.pass == ConvPass::kGradient;
  const int64_t rows = p.Rows(), length = std::max<int64_t>(p.Length(), 1), columns = p.Columns();
  const int64_t kr = kernel.rows, kc = kernel.columns;
  ConvPlan plan = {};
  plan.padded = PlanPadding(task, kernel.rows, budget, &plan);
  plan.column_step = Step(columns, budget.packed / 4 / (gradient ? 512 : length), kc);
  const int64_t column_panels = plan.column_step / kc;
  const int64_t tiles = std::max<int64_t>(budget.tiles / kernel.tile_bytes / column_panels, 1);
  const int64_t most_k = std::max<int64_t>(budget.packed / 4 / plan.column_step, 64);
  // Rows, or in kGradient terms, that gather from as much of the image as there is room for.
  const int64_t gathering = gradient ? length : rows;
  int64_t room = gathering;
  if (plan.padded) {
    const int64_t image = plan.padded_height * plan.padded_width * p.SourceChannels();
    const int64_t images = std::min(s.batch, budget.source / 4 / image);
    room = images * (gradient ? s.out_height * s.out_width : p.RowsOfImage());
    plan.source_size = images * image + kr;  // the last panel reads kr lanes, whatever its width
    if (gradient && room > most_k) {
      const int64_t fewer = most_k / (s.out_height * s.out_width);
      room = fewer * s.out_height * s.out_width;
    }
    // Sums that are kept from one block of k to the next need room too.
    const bool keeps = gradient && room < length;
    plan.padded = room > 0 && !(keeps && CeilOf(plan.stretch, kr) > tiles);
  }
  if (!plan.padded) {
    plan.stretch = 0;
    room = gathering;
    plan.source_size = 0;
    const int64_t pixels = p.pass == ConvPass::kBackward ? s.OutPixels() : s.InPixels();
    if (task.num_a_stages > 0 && pixels * p.SourceChannels() * 4 > budget.source) {
      const double share =
          static_cast<double>(budget.source / 4 / p.SourceChannels()) / static_cast<double>(pixels);
      room = std::max<int64_t>(static_cast<int64_t>(share * static_cast<double>(gathering)), 1);
    }
    if (gradient) room = std::min(room, most_k);
  }
  plan.k_step = gradient ? std::min(room, length) : length;
  plan.row_step = gradient ? rows : std::min(room, rows);
  if (!plan.padded && !gradient) plan.row_step = Step(rows, room, kr);

  const int64_t packed = plan.column_step * plan.k_step;
  plan.group_step = std::min(s.groups, std::max<int64_t>(budget.packed / 4 / packed, 1));
  if (plan.k_step < length) {
    const int64_t unit = plan.stretch > 0 ? plan.stretch : kr;
    plan.row_step = Step(rows, tiles / CeilOf(unit, kr) * unit, unit);
  }
  const int64_t stretch = plan.stretch > 0 ? plan.stretch : plan.row_step;
  const int64_t row_panels = plan.row_step / stretch * CeilOf(stretch, kr);
  if (plan.k_step < length) {
    plan.group_step = std::min(plan.group_step, std::max<int64_t>(tiles / row_panels, 1));
    plan.tile_bytes = plan.group_step * row_panels * column_panels * kernel.tile_bytes;
  }
  plan.row_panels = row_panels;
  plan.packed_size = plan.group_step * packed;
  plan.column_groups = std::min(column_panels, CeilOf(4 * threads, plan.group_step * row_panels));
  constexpr int64_t kUnitsTogether = 6;
  const int64_t share = plan.group_step * row_panels * plan.column_groups / threads;
  plan.units_together = gradient ? std::max<int64_t>(std::min(share, kUnitsTogether), 1) : 1;
  for (int64_t begin = 0; !plan.padded && task.num_a_stages > 0 && begin < gathering;) {
    const int64_t step = gradient ? plan.k_step : plan.row_step;
    int64_t first, last;
    Source(p, begin, std::min(begin + step, gathering), &first, &last);
    plan.source_size = std::max(plan.source_size, (last - first) * p.SourceChannels());
    begin += step;
  }
  return plan;
}

bool RunConv2D(const Conv2D& kernel, const ConvPlan& plan, const ConvTask& task,
               const ConvMemory& memory, const ParallelFor& parallel_for) {
  const ConvProduct& p = task.product;
  const bool gradient = p.pass == ConvPass::kGradient;
  const int64_t rows = p.Rows(), length = p.Length(), columns = p.Columns();
  const int64_t kr = kernel.rows, kc = kernel.columns, groups = p.shape.groups;
  const int64_t column_panels = plan.column_step / kc;
  std::vector<PanelRange> a_ranges(plan.group_step * plan.row_panels * plan.column_groups);
  std::vector<PanelRange> b_ranges(plan.group_step * column_panels);
  std::vector<ConvRun> runs;
  bool out_of_memory = false;

  ConvBlock block;
  block.task = task;
  block.source = plan.padded ? memory.source : task.image;
  block.layout = p.Layout();
  block.packed_b = memory.packed;
  block.b_range = b_ranges.data();
  block.column_groups = plan.column_groups;
  block.out_of_memory = &out_of_memory;
  if (plan.k_step < length) {
    block.tiles = memory.tiles;
    block.a_range = a_ranges.data();
  }

  const auto pad_source = [&](int64_t begin, int64_t end) {
    const int64_t of_image = gradient ? p.shape.out_height * p.shape.out_width : p.RowsOfImage();
    const int64_t first = begin / of_image, images = (end - begin) / of_image;
    parallel_for(images * plan.padded_height, plan.padded_width * p.SourceChannels() * 3,
                 [&](int64_t from, int64_t to) {
                   kernel.pad(block, plan, first, from, to, memory.source, &block.source_range);
                 });
    const int64_t image_step = plan.padded_height * plan.padded_width;
    std::fill_n(memory.source + images * image_step * p.SourceChannels(), kr, 0.0f);
    block.layout = {image_step, plan.padded_width,
                    plan.top * plan.padded_width + plan.left - first * image_step};
  };
  const auto round_source = [&](int64_t begin, int64_t end) {
    int64_t first, last;
    Source(p, begin, end, &first, &last);
    const int64_t channels = p.SourceChannels(), count = (last - first) * channels;
    const float* from = task.image + first * channels;
    for (int i = 0; i < task.num_a_stages; ++i) {
      QuantizeTask stage = task.a_stages[i];
      stage.index = first * channels;
      stage.x32 = from;
      stage.y = memory.source;
      parallel_for(CeilOf(count, kQuantizeGrain), kQuantizeGrain * 2,
                   [&](int64_t from_grain, int64_t to_grain) {
                     kernel.quantize(stage, from_grain * kQuantizeGrain,
                                     std::min(to_grain * kQuantizeGrain, count));
                   });
      from = memory.source;
    }
    block.source = memory.source;
    block.layout.origin = -first;
  };

  const auto multiply = [&] {
    int64_t terms = block.k_end - block.k_begin;
    if (block.num_runs > 0) {
      terms = 0;
      for (const ConvRun& run : runs) terms += run.k_end - run.k_begin;
    }
    const int64_t units = block.Groups() * block.RowPanels(kernel.rows) * plan.column_groups;
    const int64_t cost = kr * kc * CeilOf(column_panels, plan.column_groups) * terms / 6;
    const int64_t together = plan.units_together;
    parallel_for(CeilOf(units, together), cost * together, [&](int64_t from, int64_t to) {
      kernel.multiply(block, from * together, std::min(to * together, units));
    });
  };
  const auto set_runs = [&](const PixelGrid& grid) {
    block.grid = grid;
    runs = Runs(p, plan, grid, block.k_begin, block.k_end);
    block.runs = runs.data();
    block.num_runs = static_cast<int64_t>(runs.size());
  };
  const std::vector<PixelGrid> grids =
      gradient || !plan.padded ? std::vector<PixelGrid>(1) : Grids(p);
  // Rows [begin, end), in the order of each grid's pixels.
  const auto multiply_grids = [&](int64_t begin, int64_t end) {
    const int64_t of_image = p.RowsOfImage();
    for (const PixelGrid& grid : grids) {
      set_runs(grid);
      block.row_begin = begin / of_image * grid.Pixels();
      block.row_end = end / of_image * grid.Pixels();
      block.stretch = block.row_end - block.row_begin;
      multiply();
    }
  };

  int64_t source_begin = -1, packed_k = -1;
  for (int64_t column = 0; column < columns; column += plan.column_step) {
    block.column_begin = column;
    block.column_end = std::min(column + plan.column_step, columns);
    for (int64_t group = 0; group < groups; group += plan.group_step) {
      block.group_begin = group;
      block.group_end = std::min(group + plan.group_step, groups);
      packed_k = -1;
      // Of all k so far: the sums have seen them.
      std::fill(b_ranges.begin(), b_ranges.end(), PanelRange());
      for (int64_t row = 0; row < rows; row += plan.row_step) {
        block.row_begin = row;
        block.row_end = std::min(row + plan.row_step, rows);
        block.stretch = plan.stretch > 0 ? plan.stretch : block.row_end - row;
        std::fill(a_ranges.begin(), a_ranges.end(), PanelRange());
        for (int64_t k = 0; k < std::max<int64_t>(length, 1); k += plan.k_step) {
          block.k_begin = k;
          block.k_end = std::min(k + plan.k_step, length);
          const int64_t begin = gradient ? k : row, end = gradient ? block.k_end : block.row_end;
          if (source_begin != begin) {
            source_begin = begin;
            if (plan.padded) {
              pad_source(begin, end);
            } else if (task.num_a_stages > 0) {
              round_source(begin, end);
            }
          }
          const int64_t units = block.PackUnits(kernel.columns);
          const int64_t size = block.Groups() * (block.k_end - k) * plan.column_step;
          if (packed_k != k) {
            packed_k = k;
            parallel_for(units, size * 2 / units,
                         [&](int64_t from, int64_t to) { kernel.pack_b(block, from, to); });
          }
          if (plan.padded) set_runs(grids[0]);
          if (grids.size() > 1 && kernel.may_skip(block)) {
            multiply_grids(row, block.row_end);
          } else {
            if (grids.size() > 1) block.num_runs = 0;
            multiply();
          }
        }
      }
    }
  }
  return !out_of_memory;
}

}  // namespace tf_lowprec
