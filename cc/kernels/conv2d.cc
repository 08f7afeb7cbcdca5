#include "cc/kernels/conv2d.h"

#include <algorithm>
#include <atomic>
#include <memory>
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

// Threads' memory for images: as many as there are threads.
class Slots {
 public:
  explicit Slots(int64_t count) : count_(count), taken_(new std::atomic<bool>[count]()) {}
  int64_t Take() {
    for (int64_t i = 0;; i = (i + 1) % count_) {
      if (!taken_[i].exchange(true, std::memory_order_acquire)) return i;
    }
  }
  void Return(int64_t slot) { taken_[slot].store(false, std::memory_order_release); }

 private:
  const int64_t count_;
  const std::unique_ptr<std::atomic<bool>[]> taken_;
};

// A block of padded images, which lie at `source`: where their pixels are.
void PlaceImages(const ConvPlan& plan, int rows, int64_t first, int64_t images, float* source,
                 ConvBlock* block) {
  const int64_t image_step = plan.padded_height * plan.padded_width;
  const int64_t size = images * image_step * block->task.product.SourceChannels();
  std::fill_n(source + size, rows, 0.0f);
  block->source = source;
  block->layout = {image_step, plan.padded_width,
                   plan.top * plan.padded_width + plan.left - first * image_step};
}

// multiply(block, cost of a unit) for all its rows: grid by grid where that leaves something out.
template <typename Multiply>
void MultiplyRows(const Conv2D& kernel, const ConvPlan& plan, ConvBlock block,
                  const Multiply& multiply) {
  const ConvProduct& p = block.task.product;
  std::vector<ConvRun> runs;
  const auto set_runs = [&](const PixelGrid& grid) {
    block.grid = grid;
    runs = Runs(p, plan, grid, block.k_begin, block.k_end);
    block.runs = runs.data();
    block.num_runs = static_cast<int64_t>(runs.size());
  };
  const auto all = [&] {
    int64_t terms = block.k_end - block.k_begin;
    if (block.num_runs > 0) {
      terms = 0;
      for (const ConvRun& run : runs) terms += run.k_end - run.k_begin;
    }
    const int64_t panels = CeilOf(block.ColumnPanels(kernel.columns), block.column_groups);
    multiply(block, kernel.rows * kernel.columns * panels * terms / 6);
  };
  if (!plan.padded) return all();
  if (p.pass == ConvPass::kGradient) {
    set_runs({});
    return all();
  }
  const std::vector<PixelGrid> grids = Grids(p);
  set_runs(grids[0]);
  const bool skips = p.pass == ConvPass::kBackward && p.shape.HasStrides();
  if (skips && !kernel.may_skip(block)) {
    block.num_runs = 0;
    return all();
  }
  const int64_t of_image = p.RowsOfImage();
  const int64_t first = block.row_begin / of_image, last = block.row_end / of_image;
  for (const PixelGrid& grid : grids) {
    set_runs(grid);
    block.row_begin = first * grid.Pixels();
    block.row_end = last * grid.Pixels();
    block.stretch = block.row_end - block.row_begin;
    all();
  }
}

}  // namespace

bool RunConv2D(const Conv2D& kernel, const ConvPlan& plan, const ConvTask& task,
               const ConvMemory& memory, const ParallelFor& parallel_for) {
  const ConvProduct& p = task.product;
  const bool gradient = p.pass == ConvPass::kGradient;
  const int64_t rows = p.Rows(), length = p.Length(), columns = p.Columns();
  const int64_t kc = kernel.columns, groups = p.shape.groups;
  const int64_t column_panels = plan.column_step / kc;
  std::vector<PanelRange> a_ranges(plan.group_step * plan.row_panels * plan.column_groups);
  std::vector<PanelRange> b_ranges(plan.group_step * column_panels);
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
    PlaceImages(plan, kernel.rows, first, images, memory.source, &block);
  };
  const auto round_source = [&](int64_t begin, int64_t end) {
    int64_t first, last;
    ConvSource(p, begin, end, &first, &last);
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

  const auto units_of = [&](const ConvBlock& part) {
    return part.Groups() * part.RowPanels(kernel.rows) * part.column_groups;
  };
  const auto multiply = [&](const ConvBlock& part, int64_t cost) {
    const int64_t units = units_of(part), together = plan.units_together;
    parallel_for(CeilOf(units, together), cost * together, [&](int64_t from, int64_t to) {
      kernel.multiply(part, from * together, std::min(to * together, units));
    });
  };
  // All rows: each thread pads some images and multiplies them.
  const auto multiply_images = [&] {
    Slots slots(plan.threads);
    const int64_t size = plan.source_size / plan.threads, together = plan.images_together;
    const int64_t of_image = p.RowsOfImage();
    const int64_t cost = together * of_image * length * columns * block.Groups() / 6;
    parallel_for(CeilOf(p.shape.batch, together), cost, [&](int64_t from, int64_t to) {
      const int64_t slot = slots.Take();
      float* const source = memory.source + slot * size;
      for (; from < to; ++from) {
        ConvBlock own = block;
        const int64_t first = from * together;
        const int64_t images = std::min(together, p.shape.batch - first);
        kernel.pad(own, plan, first, 0, images * plan.padded_height, source, &own.source_range);
        PlaceImages(plan, kernel.rows, first, images, source, &own);
        own.row_begin = first * of_image;
        own.row_end = own.row_begin + images * of_image;
        own.stretch = own.row_end - own.row_begin;
        MultiplyRows(kernel, plan, own, [&](const ConvBlock& part, int64_t) {
          kernel.multiply(part, 0, units_of(part));
        });
      }
      slots.Return(slot);
    });
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
          if (source_begin != begin && plan.images_together == 0) {
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
          if (plan.images_together > 0) {
            multiply_images();
          } else {
            MultiplyRows(kernel, plan, block, multiply);
          }
        }
      }
    }
  }
  return !out_of_memory;
}

}  // namespace tf_lowprec
