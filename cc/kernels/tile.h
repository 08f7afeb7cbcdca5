// The accumulation of a tile of output elements. Every instruction set has a copy of it, in its own
// namespace: tile_*.cc.
#ifndef TF_LOWPREC_CC_KERNELS_TILE_H_
#define TF_LOWPREC_CC_KERNELS_TILE_H_

#include <cstring>

#include "cc/kernels/accumulation_path.h"
#include "cc/kernels/random_history.h"
#include "cc/kernels/step_bounds.h"
#include "cc/kernels/tile_shape.h"
#include "cc/numerics/accumulate.h"

LOWPREC_BEGIN_NAMESPACE

// A run of k: its first element lies at `offset` from the lanes' pointers, or from `a`. Where runs
// leave out a part of k, one follows that begins at k_end or beyond it.
struct TileRun {
  int64_t offset, k_begin, k_end;
};

// A packed panel of the left operand as float64. What adds in float64 makes it, once for all tiles
// that take the panel one after the other.
struct WidePanel {
  double* elements = nullptr;  // [k_end - k_begin][kRows]; allocated if null, for the owner to free
  const float* of = nullptr;   // the panel
};

// A tile on its way: some columns of k after others.
struct TileTask {
  AccumulatorSpec accumulator;
  int64_t k = 0;                                 // length of the whole sums
  const float* a = nullptr;                      // of RunTile: kRows for each k,
  int64_t a_step = kRows;                        //   so far apart
  WidePanel* wide = nullptr;                     // for `a`; none where it may be too large
  RandomHistory* history = nullptr;              // of stochastic accumulators; or none
  const float* b = nullptr;                      // [k_end - k_begin][kColumns]
  StepBounds a_bounds, b_bounds;                 // of `a` and `b`, or none
  int64_t k_begin = 0, k_end = 0;                // what of k is to be added now
  const float* const* lanes = nullptr;           // of RunTileInPlace: kRows pointers
  const TileRun* runs = nullptr;                 // from k_begin on; of RunTile: or one, if null
  bool masked = false;                           // terms whose a is kLeftOut are left out
  int rows = kRows, columns = kColumns;          // that the result has of the tile
  const int32_t* random_bits = nullptr;          // of the tile's first element
  int64_t row_step = 0;                          // elements from one row of random_bits to the next
  int64_t steps = 0;                             // values of random_bits for each element
  alignas(64) float sums[kRows][kColumns];       // partial sums: of the chunk, if there are chunks
  alignas(64) float totals[kRows][kColumns];     // of chunks
  alignas(64) uint32_t states[kRows][kColumns];  // of stochastic accumulators

  const float (*Result() const)[kColumns] { return accumulator.chunk > 0 ? totals : sums; }
};

// The sums before the first step. `element` is the index of the tile's first output element, and
// row_step that from one row to the next.
inline void StartTile(TileTask& tile, int64_t element, int64_t row_step, const uint32_t seed[2],
                      uint64_t stream) {
  // Not memset, which GCC makes a slow instruction for strings of.
  for (int row = 0; row < kRows; ++row) {
    FloatLanes::Store(tile.sums[row], FloatLanes::Set(0));
    FloatLanes::Store(tile.totals[row], FloatLanes::Set(0));
  }
  if (static_cast<Rounding>(tile.accumulator.rounding) != Rounding::kStochastic) return;
  const PhiloxKey key = {seed[0], seed[1]};
  for (int row = 0; row < kRows; ++row) {
    const uint64_t first = static_cast<uint64_t>(element + row * row_step);
    // Four states at a time.
    for (int j = -static_cast<int>(first % 4); j < kColumns; j += 4) {
      const uint64_t block = (first + static_cast<uint64_t>(j)) / 4;
      const PhiloxWords words =
          Philox(static_cast<uint32_t>(block), static_cast<uint32_t>(block >> 32),
                 static_cast<uint32_t>(stream), static_cast<uint32_t>(stream >> 32), key);
      for (int i = 0; i < 4; ++i) {
        if (j + i < 0 || j + i >= kColumns) continue;
        tile.states[row][j + i] = RandomStateOf(words.w[i]);
      }
    }
  }
}

inline void StoreRow(const TileTask& tile, int row, float* to) {
  const float* from = tile.Result()[row];
  if (tile.columns == kColumns) {  // else memcpy is a call
    memcpy(to, from, kColumns * sizeof(float));
  } else {
    memcpy(to, from, static_cast<size_t>(tile.columns) * sizeof(float));
  }
}

// The tile's results, rows `row_step` apart.
inline void StoreTile(const TileTask& tile, float* to, int64_t row_step) {
  for (int row = 0; row < tile.rows; ++row) StoreRow(tile, row, to + row * row_step);
}

// Whether operands need not be packed: in these paths a term that is left out may be a zero.
inline bool TakesAnyLayout(const PathChoice& choice) {
  return choice.path != AccumulationPath::kExact && !choice.may_underflow && !choice.may_overflow;
}

// Whether no operands have a faster choice.
inline bool IsFastest(const PathChoice& choice) {
  return TakesAnyLayout(choice) && choice.path != AccumulationPath::kNearestDouble &&
         choice.path != AccumulationPath::kNearestOdd;
}

// Of several panels together.
inline PanelRange RangeOf(const PanelRange* ranges, int64_t count) {
  PanelRange all;
  for (int64_t i = 0; i < count; ++i) {
    all.max_bits = Max(all.max_bits, ranges[i].max_bits);
    all.min_bits_minus_1 = Min(all.min_bits_minus_1, ranges[i].min_bits_minus_1);
  }
  return all;
}

// Adds the terms from k_begin to k_end: of a tile whose rows lie side by side (packed, unless the
// choice IsFastest), or, for a choice that TakesAnyLayout, with a left operand whose lanes lie
// apart.
void RunTile(TileTask& tile, const PathChoice& choice);
void RunTileInPlace(TileTask& tile, const PathChoice& choice);

LOWPREC_END_NAMESPACE

#endif  // TF_LOWPREC_CC_KERNELS_TILE_H_
