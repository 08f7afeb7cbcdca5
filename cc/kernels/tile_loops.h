// Accumulation of a tile of output elements, compiled once per instruction set.
#ifndef TF_LOWPREC_CC_KERNELS_TILE_LOOPS_H_
#define TF_LOWPREC_CC_KERNELS_TILE_LOOPS_H_

#include <cstring>
#include <type_traits>
#include <utility>

#include "cc/kernels/accumulation_steps.h"
#include "cc/kernels/tile_shape.h"
#include "cc/numerics/accumulate.h"

LOWPREC_BEGIN_NAMESPACE

// Where the left operand's elements are. Packed: [k][kRows]. Otherwise k falls into runs, within
// which a lane's elements lie side by side (kLanesApart, each lane from a pointer of its own), or a
// step of the lanes does (kLanesTogether, `left_step` from one k to the next).
enum class LeftLayout { kPacked, kLanesApart, kLanesTogether };

// A run of k: its first element lies at `offset` from the lanes' pointers.
struct TileRun {
  int64_t offset, k_begin, k_end;
};

// A tile on its way: some columns of k after others.
struct TileTask {
  AccumulatorSpec accumulator;
  int64_t k = 0;                                 // length of the whole sums
  const float* a = nullptr;                      // [k_end - k_begin][kRows], or the first lane
  const float* b = nullptr;                      // [k_end - k_begin][kColumns]
  int64_t k_begin = 0, k_end = 0;                // what of k is to be added now
  const float* const* lanes = nullptr;           // of kLanesApart: kRows pointers
  int64_t left_step = 0;                         // of kLanesTogether
  const TileRun* runs = nullptr;                 // from k_begin to k_end, unless packed
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

template <typename F, int... kIndex>
LOWPREC_HD void ForEachOf(std::integer_sequence<int, kIndex...>, const F& f) {
  (f(std::integral_constant<int, kIndex>()), ...);
}

// f(0), ..., f(kCount - 1), with constants: an array of registers must not be indexed otherwise, or
// it is kept in memory.
template <int kCount, typename F>
LOWPREC_HD void ForEach(const F& f) {
  ForEachOf(std::make_integer_sequence<int, kCount>(), f);
}

// The sums before the first step. `element` is the index of the tile's first output element, and
// row_step that from one row to the next.
inline void StartTile(TileTask& tile, int64_t element, int64_t row_step, const uint32_t seed[2],
                      uint64_t stream) {
  memset(tile.sums, 0, sizeof(tile.sums));
  memset(tile.totals, 0, sizeof(tile.totals));
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

// totals <- round(totals + sums) of some rows. Stochastic rounding advances `states`.
template <int kCount, typename Step, typename State>
LOWPREC_HD void AddChunk(const Step& step, const float (*sums)[kColumns], float (*totals)[kColumns],
                         State* states) {
  using L = typename Step::Lanes;
  constexpr int kVectors = kColumns / L::kLanes;
  ForEach<kCount * kVectors>([&](auto i) {
    constexpr int kRow = decltype(i)::value / kVectors;
    constexpr int kColumn = decltype(i)::value % kVectors * L::kLanes;
    float* total = &totals[kRow][kColumn];
    const auto sum = L::Load(&sums[kRow][kColumn]);
    typename Step::State none, *state = &none;
    if constexpr (!std::is_same_v<State, NoState>) state = &states[i];
    L::Store(total, step.template Round<0>(L::Load(total), sum, L::Set(1.0f), *state));
  });
}

// Adds the terms of [k, end) to sums; left(i) is a pointer to the lanes of the i-th.
template <typename Step, int kStepRows, typename Sums, typename States, typename Left>
LOWPREC_HD void StepTerms(const Step& step, Sums& sums, States& states, const Left& left,
                          const float* b, int64_t count) {
  using L = typename Step::Lanes;
  using V = typename L::Vector;
  constexpr int kVectors = kColumns / L::kLanes;
  const auto step_at = [&](const auto& element, const float* right_row) {
    V right[kVectors];
    ForEach<kVectors>([&](auto v) { right[v] = L::Load(right_row + v * L::kLanes); });
    ForEach<kStepRows>([&](auto row) {
      const V a = L::Set(element(row));
      ForEach<kVectors>([&](auto v) {
        constexpr int kIndex = decltype(row)::value * kVectors + decltype(v)::value;
        sums[kIndex] = step.template Round<kIndex>(sums[kIndex], a, right[v], states[kIndex]);
      });
    });
  };
  if constexpr (sizeof(typename L::Bits) == 8) {
    // As doubles in memory, so that the multiply can take them from there.
    constexpr int64_t kBlock = 32;
    alignas(64) double wide[kBlock][kStepRows];
    for (int64_t first = 0; first < count; first += kBlock) {
      const int block = static_cast<int>(Min(count - first, kBlock));
      for (int i = 0; i < block; ++i) {
        ForEach<kStepRows>(
            [&](auto row) { wide[i][row] = static_cast<double>(left(row, first + i)); });
      }
      for (int i = 0; i < block; ++i, b += kColumns) {
        step_at([&](int row) { return wide[i][row]; }, b);
      }
    }
  } else {
    for (int64_t i = 0; i < count; ++i, b += kColumns) {
      step_at([&](int row) { return left(row, i); }, b);
    }
  }
}

// Steps k_begin to k_end of a tile, kStepRows of its rows at a time; noinline keeps it within a
// rounding mode's scope.
template <typename Step, int kStepRows, LeftLayout kLayout>
__attribute__((noinline)) void StepTile(TileTask& tile) {
  using L = typename Step::Lanes;
  using V = typename L::Vector;
  constexpr int kVectors = kColumns / L::kLanes;
  constexpr bool kRandom = !std::is_same_v<typename Step::State, NoState>;
  const Step step(tile.accumulator);
  // The sum of two numbers of m + 1 bits may be rounded to W bits first if W >= 2 (m + 1) + 1
  // (Figueroa, "When is double rounding innocuous?", 1995): float32 up to m = 10, then float64.
  constexpr bool kNearest = !Step::kTowardZero && !std::is_same_v<Step, FmaStep>;
  using FloatStep = std::conditional_t<kNearest, NearestStep<FloatLanes, true, false>, Step>;
  using DoubleStep = std::conditional_t<kNearest, NearestStep<DoubleLanes, true, false>, Step>;
  const FloatStep float_step(tile.accumulator);
  const DoubleStep double_step(tile.accumulator);
  const bool chunk_in_float = !kNearest || tile.accumulator.mantissa_bits <= 10;
  const int64_t chunk = tile.accumulator.chunk;
  const TileRun whole = {0, tile.k_begin, tile.k_end};

  for (int top = 0; top < kRows; top += kStepRows) {
    typename Step::State states[kStepRows * kVectors];
    if constexpr (kRandom) {
      ForEach<kStepRows * kVectors>([&](auto i) {
        states[i].x = L::LoadBits(&tile.states[top + i / kVectors][i % kVectors * L::kLanes]);
      });
    }
    const TileRun* run = kLayout == LeftLayout::kPacked ? &whole : tile.runs;
    for (int64_t k = tile.k_begin; k < tile.k_end;) {
      const int64_t end = chunk > 0 ? Min(k - k % chunk + chunk, tile.k_end) : tile.k_end;
      V sums[kStepRows * kVectors];
      ForEach<kStepRows * kVectors>([&](auto i) {
        sums[i] = L::Load(&tile.sums[top + i / kVectors][i % kVectors * L::kLanes]);
      });
      while (k < end) {
        const int64_t stop = Min(end, run->k_end), at = k - run->k_begin;
        const float* b = tile.b + (k - tile.k_begin) * kColumns;
        if constexpr (kLayout == LeftLayout::kLanesApart) {
          const float* lanes[kStepRows];
          ForEach<kStepRows>(
              [&](auto row) { lanes[row] = tile.lanes[top + row] + run->offset + at; });
          StepTerms<Step, kStepRows>(
              step, sums, states, [&](int row, int64_t i) { return lanes[row][i]; }, b, stop - k);
        } else {
          const int64_t left_step = kLayout == LeftLayout::kPacked ? kRows : tile.left_step;
          const float* a = tile.a + run->offset + at * left_step + top;
          StepTerms<Step, kStepRows>(
              step, sums, states, [&](int row, int64_t i) { return a[i * left_step + row]; }, b,
              stop - k);
        }
        k = stop;
        if (k == run->k_end) ++run;
      }
      ForEach<kStepRows * kVectors>([&](auto i) {
        L::Store(&tile.sums[top + i / kVectors][i % kVectors * L::kLanes], sums[i]);
      });
      if (chunk <= 0 || (end % chunk != 0 && end != tile.k)) continue;
      if (chunk_in_float) {
        AddChunk<kStepRows>(float_step, tile.sums + top, tile.totals + top, states);
      } else {
        AddChunk<kStepRows>(double_step, tile.sums + top, tile.totals + top, states);
      }
      memset(tile.sums + top, 0, kStepRows * sizeof(tile.sums[0]));
    }
    if constexpr (kRandom) {
      ForEach<kStepRows * kVectors>([&](auto i) {
        L::StoreBits(&tile.states[top + i / kVectors][i % kVectors * L::kLanes], states[i].x);
      });
    }
  }
}

// Any operands and formats: AccumulateStep, element by element of a row.
template <Rounding kRounding, bool kGapAtZero>
__attribute__((noinline)) void ExactTile(TileTask& tile) {
  const FloatRounder<double> rounder =
      MakeFloatRounder<double>(AccumulatorFormat(tile.accumulator), kRounding);
  constexpr bool kRandom = kRounding == Rounding::kStochastic;
  const int64_t chunk = tile.accumulator.chunk;
  alignas(64) uint32_t random[kColumns] = {};
  for (int row = 0; row < tile.rows; ++row) {
    uint32_t* states = tile.states[row];
    float* sums = tile.sums[row];
    float* totals = tile.totals[row];
    int64_t done = tile.k_begin + (chunk > 0 ? tile.k_begin / chunk : 0);
    const auto draw = [&] {  // r of the next step
      if constexpr (!kRandom) return;
      if (tile.random_bits != nullptr) {
        const int32_t* r = tile.random_bits + (row * tile.row_step) * tile.steps + done++;
        for (int j = 0; j < tile.columns; ++j) random[j] = static_cast<uint32_t>(r[j * tile.steps]);
      } else {
        for (int j = 0; j < kColumns; ++j) {
          states[j] = NextRandomState(states[j]);
          random[j] = states[j] >> (32 - kAccumulatorRandomBits);
        }
      }
    };
    for (int64_t k = tile.k_begin; k < tile.k_end; ++k) {
      const float a = tile.a[(k - tile.k_begin) * kRows + row];
      const float* b = tile.b + (k - tile.k_begin) * kColumns;
      draw();
      if (!tile.masked || ToBits<float>(a) != kLeftOut) {
#pragma GCC ivdep
        for (int j = 0; j < kColumns; ++j) {
          sums[j] = AccumulateStep<kRounding, kGapAtZero>(sums[j], a, b[j], rounder, random[j]);
        }
      }
      if (chunk > 0 && ((k + 1) % chunk == 0 || k + 1 == tile.k)) {
        draw();
        for (int j = 0; j < kColumns; ++j) {
          totals[j] =
              AccumulateStep<kRounding, kGapAtZero>(totals[j], sums[j], 1.0f, rounder, random[j]);
          sums[j] = 0;
        }
      }
    }
  }
}

template <typename Step, int kStepRows = kRows, LeftLayout kLayout = LeftLayout::kPacked>
inline void RunSteps(TileTask& tile) {
  if constexpr (Step::kTowardZero) {
    const ScopedRoundTowardZero toward_zero;
    StepTile<Step, kStepRows, kLayout>(tile);
  } else {
    StepTile<Step, kStepRows, kLayout>(tile);
  }
}

inline void RunExact(TileTask& tile) {
  const AccumulatorSpec& spec = tile.accumulator;
  const FloatFormat format = AccumulatorFormat(spec);
  const bool gap = HasGapAtZero(format);
  switch (static_cast<Rounding>(spec.rounding)) {
    case Rounding::kNearestEven:
      return gap ? ExactTile<Rounding::kNearestEven, true>(tile)
                 : ExactTile<Rounding::kNearestEven, false>(tile);
    case Rounding::kNearestUp:
      return gap ? ExactTile<Rounding::kNearestUp, true>(tile)
                 : ExactTile<Rounding::kNearestUp, false>(tile);
    case Rounding::kTowardZero:
      return gap ? ExactTile<Rounding::kTowardZero, true>(tile)
                 : ExactTile<Rounding::kTowardZero, false>(tile);
    case Rounding::kStochastic:
      return gap ? ExactTile<Rounding::kStochastic, true>(tile)
                 : ExactTile<Rounding::kStochastic, false>(tile);
  }
}

// The steps for sums that may lie below the lowest normal binade, with terms left out or not.
template <template <bool> class Step, int kStepRows>
inline void RunUnderflow(TileTask& tile) {
  tile.masked ? RunSteps<Step<true>, kStepRows>(tile) : RunSteps<Step<false>, kStepRows>(tile);
}

template <bool kMasked>
using LowFloatStep = NearestStep<FloatLanes, true, false, kMasked>;
template <bool kMasked>
using LowDoubleStep = NearestStep<DoubleLanes, true, false, kMasked>;
template <bool kMasked>
using LowOddStep = NearestStep<OddLanes, true, true, kMasked>;
template <bool kMasked>
using LowTruncateStep = TruncateStep<true, kMasked>;

// Whether operands need not be packed: in these paths a term that is left out may be a zero.
inline bool TakesAnyLayout(const PathChoice& choice) {
  return choice.path != AccumulationPath::kExact && !choice.may_underflow;
}

// For a choice that TakesAnyLayout.
template <LeftLayout kLayout>
inline void RunFastTile(TileTask& tile, const PathChoice& choice) {
  switch (choice.path) {
    case AccumulationPath::kNearest:
      return RunSteps<NearestStep<FloatLanes, false, false>, kRows, kLayout>(tile);
    case AccumulationPath::kNearestDouble:
      return RunSteps<NearestStep<DoubleLanes, false, false>, kDoubleRows, kLayout>(tile);
    case AccumulationPath::kNearestOdd:
      return RunSteps<NearestStep<OddLanes, false, true>, kOddRows, kLayout>(tile);
    case AccumulationPath::kFma:
      return RunSteps<FmaStep, kRows, kLayout>(tile);
    case AccumulationPath::kTruncate:
      return RunSteps<TruncateStep<false>, kRows, kLayout>(tile);
    case AccumulationPath::kStochastic:
      return tile.accumulator.mantissa_bits > 23 - kAccumulatorRandomBits
                 ? RunSteps<StochasticStep<true>, kRows, kLayout>(tile)
                 : RunSteps<StochasticStep<false>, kRows, kLayout>(tile);
    case AccumulationPath::kExact:
      return;
  }
}

// A packed tile.
inline void RunTile(TileTask& tile, const PathChoice& choice) {
  if (TakesAnyLayout(choice)) return RunFastTile<LeftLayout::kPacked>(tile, choice);
  switch (choice.path) {
    case AccumulationPath::kNearest:
      return RunUnderflow<LowFloatStep, kRows>(tile);
    case AccumulationPath::kNearestDouble:
      return RunUnderflow<LowDoubleStep, kDoubleRows>(tile);
    case AccumulationPath::kNearestOdd:
      return RunUnderflow<LowOddStep, kOddRows>(tile);
    case AccumulationPath::kTruncate:
      return RunUnderflow<LowTruncateStep, kRows>(tile);
    default:
      return RunExact(tile);
  }
}

LOWPREC_END_NAMESPACE

#endif  // TF_LOWPREC_CC_KERNELS_TILE_LOOPS_H_
