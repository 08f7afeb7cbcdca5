// How a convolution's work is divided into blocks.
#include <algorithm>

#include "cc/kernels/conv2d.h"

namespace tf_lowprec {

void ConvSource(const ConvProduct& product, int64_t begin, int64_t end, int64_t* first,
                int64_t* last) {
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

namespace {

int64_t RoundUp(int64_t a, int64_t b) { return CeilOf(a, b) * b; }

// The largest multiple of `unit` up to `most` and what is needed for `total`; at least one.
int64_t Step(int64_t total, int64_t most, int64_t unit) {
  return std::max(std::min(RoundUp(total, unit), most / unit * unit), unit);
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
    constexpr int64_t kMostGrids = 64;  // each is multiplied by itself
    if (std::min(s.stride_height, s.in_height) * std::min(s.stride_width, s.in_width) >
        kMostGrids) {
      return false;
    }
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
  const int64_t image = plan.padded_height * plan.padded_width * p.SourceChannels();
  // Rows, or in kGradient terms, that gather from as much of the image as there is room for.
  const int64_t gathering = gradient ? length : rows;
  int64_t room = gathering;
  if (plan.padded) {
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
  // Filters are read once for a block's panels of rows: large ones not for few images.
  const bool all_filters = plan.column_step >= columns && plan.group_step >= s.groups;
  if (plan.padded && !gradient && all_filters && plan.packed_size * 4 <= 2 * budget.cache) {
    constexpr int64_t kTurns = 4;  // of a thread, for all to end at about the same time
    const int64_t most = std::max<int64_t>(budget.cache / 4 / image, 1);
    const int64_t fitting = (budget.source / 4 / threads - kr) / image;
    const int64_t images = std::min({most, fitting, s.batch / (kTurns * threads)});
    if (images > 0) {
      plan.images_together = images;
      plan.threads = threads;
      plan.source_size = threads * (images * image + kr);
      plan.row_step = rows;
      plan.column_groups = 1;
    }
  }
  for (int64_t begin = 0; !plan.padded && task.num_a_stages > 0 && begin < gathering;) {
    const int64_t step = gradient ? plan.k_step : plan.row_step;
    int64_t first, last;
    ConvSource(p, begin, std::min(begin + step, gathering), &first, &last);
    plan.source_size = std::max(plan.source_size, (last - first) * p.SourceChannels());
    begin += step;
  }
  return plan;
}

}  // namespace tf_lowprec
