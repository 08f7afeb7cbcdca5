// The loops of MatMul, compiled once per instruction set.
#ifndef TF_LOWPREC_CC_KERNELS_MATMUL_LOOPS_H_
#define TF_LOWPREC_CC_KERNELS_MATMUL_LOOPS_H_

#include <cstdlib>

#include "cc/kernels/matmul.h"
#include "cc/kernels/pack_loops.h"
#include "cc/kernels/tile.h"

LOWPREC_BEGIN_NAMESPACE

// Tiles of a block of columns, whose panels of b stay in the second-level cache, row by row: tiles
// that follow each other share a panel of a.
inline void Multiply(const MatMulTask& task, int64_t begin, int64_t end) {
  const int64_t row_tiles = (task.m + kRows - 1) / kRows;
  const int64_t column_tiles = (task.n + kColumns - 1) / kColumns;
  constexpr int64_t kBlockSize = (256 << 10) / sizeof(float);
  const int64_t most_columns =
      Min(Max(kBlockSize / (kColumns * Max(task.k, 1)), 1), Max(column_tiles, 1));
  TileTask tile;
  tile.accumulator = task.accumulator;
  tile.k = tile.k_end = task.k;
  tile.row_step = task.n;
  tile.steps = task.Steps();
  WidePanel wide;
  constexpr int64_t kMostWide = (256 << 10) / sizeof(double);  // as much of that cache again
  if (task.k * kRows <= kMostWide) tile.wide = &wide;
  RandomHistory history;
  tile.history = &history;
  const bool exact = task.random_bits != nullptr;
  const auto choose = [&](const PanelRange& a, const PanelRange& b) {
    return ChoosePath(task.accumulator, task.a_spec, task.b_spec, a, b, task.k, kSupport);
  };
  const PanelRange left = RangeOf(task.a_range, row_tiles);
  const PanelRange right = RangeOf(task.b_range, column_tiles);
  PathChoice choice;
  if (!exact) choice = choose(left, right);
  const bool all_alike = exact || IsFastest(choice);
  for (int64_t i = begin; i < end; ++i) {
    const int64_t block = i / (most_columns * row_tiles), first_column = block * most_columns;
    const int64_t block_columns = Min(most_columns, column_tiles - first_column);
    const int64_t in_block = i - first_column * row_tiles;
    const int64_t column_tile = first_column + in_block % block_columns;
    const int64_t row_tile = in_block / block_columns;
    const int64_t row = row_tile * kRows, column = column_tile * kColumns;
    const int64_t element = row * task.n + column;
    tile.a = task.a + row * task.k;
    tile.b = task.b + column * task.k;
    tile.rows = static_cast<int>(Min(task.m - row, kRows));
    tile.columns = static_cast<int>(Min(task.n - column, kColumns));
    StartTile(tile, task.index + element, task.n, task.seed, task.stream);
    if (exact) tile.random_bits = task.random_bits + element * tile.steps;
    tile.a_bounds = BoundsOfPanel(task.a_bounds, row_tile, task.k);
    tile.b_bounds = BoundsOfPanel(task.b_bounds, column_tile, task.k);
    if (!all_alike) choice = choose(task.a_range[row_tile], task.b_range[column_tile]);
    RunTile(tile, choice);
    StoreTile(tile, task.c + element, task.n);
  }
  free(wide.elements);
}

inline bool WantsBounds(const MatMulTask& task) {
#if defined(__AVX2__)
  return task.random_bits == nullptr &&
         MayBeFloatForFew(task.accumulator, task.a_spec, task.b_spec);
#else
  return false;
#endif
}

LOWPREC_END_NAMESPACE

#endif  // TF_LOWPREC_CC_KERNELS_MATMUL_LOOPS_H_
