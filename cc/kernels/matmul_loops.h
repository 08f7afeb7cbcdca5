// The loops of MatMul, compiled once per instruction set.
#ifndef TF_LOWPREC_CC_KERNELS_MATMUL_LOOPS_H_
#define TF_LOWPREC_CC_KERNELS_MATMUL_LOOPS_H_

#include <cstring>
#include <type_traits>
#include <utility>

#include "cc/kernels/accumulation_path.h"
#include "cc/kernels/accumulation_steps.h"
#include "cc/kernels/matmul.h"
#include "cc/numerics/accumulate.h"

LOWPREC_BEGIN_NAMESPACE

// A tile: one register of float32 wide, and high enough that its partial sums hide the latency of a
// step's chain of instructions.
constexpr int kColumns = FloatLanes::kLanes;
constexpr int kRows = 12;
// Rows whose sums are kept in registers as doubles, and for kNearestOdd.
#if defined(__AVX512F__)
constexpr int kDoubleRows = 12, kOddRows = 12;
using OddLanes = FloatLanes;
#else
constexpr int kDoubleRows = 6, kOddRows = 6;
using OddLanes = DoubleLanes;
#endif
#if defined(__AVX2__)
constexpr PathSupport kSupport = {true, kHasRoundingModes};
#else
constexpr PathSupport kSupport = {false, kHasRoundingModes};
#endif

// Not std's: the linker might take another instruction set's copy of those.
template <typename T, typename U>
LOWPREC_HD T Min(T a, U b) {
  return a < static_cast<T>(b) ? a : static_cast<T>(b);
}
template <typename T, typename U>
LOWPREC_HD T Max(T a, U b) {
  return a > static_cast<T>(b) ? a : static_cast<T>(b);
}

// ---- Packing ----

// Elements that are rounded at a time, when lanes are not the rows of x.
constexpr int64_t kSegment = 1024;

inline void RoundStages(const PackTask& task, const float* x, int64_t index, int64_t count,
                        float* y, QuantizeFn quantize) {
  for (int stage = 0; stage < task.num_stages; ++stage) {
    QuantizeTask q = task.stages[stage];
    q.x32 = stage == 0 ? x : y;
    q.y = y;
    q.index = index;
    quantize(q, 0, count);
  }
}

LOWPREC_HD void Include(PanelRange& range, float value) {
  const uint32_t magnitude = ToBits<float>(value) & 0x7FFFFFFFu;
  range.max_bits = Max(range.max_bits, magnitude);
  range.min_bits_minus_1 = Min(range.min_bits_minus_1, magnitude - 1);
}

// Threads that pack different k of one panel meet here.
inline void Merge(PanelRange& into, const PanelRange& range) {
  uint32_t seen = __atomic_load_n(&into.max_bits, __ATOMIC_RELAXED);
  while (seen < range.max_bits &&
         !__atomic_compare_exchange_n(&into.max_bits, &seen, range.max_bits, true, __ATOMIC_RELAXED,
                                      __ATOMIC_RELAXED)) {
  }
  seen = __atomic_load_n(&into.min_bits_minus_1, __ATOMIC_RELAXED);
  while (seen > range.min_bits_minus_1 &&
         !__atomic_compare_exchange_n(&into.min_bits_minus_1, &seen, range.min_bits_minus_1, true,
                                      __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
  }
}

// Rows of x are lanes: transposes a panel, in blocks that fit the first-level cache.
template <int kWidth>
inline void PackRows(const PackTask& task, int64_t panel, QuantizeFn quantize) {
  constexpr int64_t kBlock = 256;
  alignas(64) float rounded[kWidth][kBlock];
  const int64_t first = panel * kWidth;
  const int width = static_cast<int>(Min(task.lanes - first, kWidth));
  float* out = task.packed + first * task.k;
  PanelRange range;
  for (int64_t k0 = 0; k0 < task.k; k0 += kBlock) {
    const int64_t count = Min(kBlock, task.k - k0);
    const float* rows[kWidth];
    for (int lane = 0; lane < width; ++lane) {
      const int64_t offset = (first + lane) * task.k + k0;
      rows[lane] = task.x + offset;
      if (task.num_stages > 0) {
        RoundStages(task, rows[lane], task.index + offset, count, rounded[lane], quantize);
        rows[lane] = rounded[lane];
      }
      for (int64_t i = 0; i < count; ++i) Include(range, rows[lane][i]);
    }
    for (int64_t i = 0; i < count; ++i) {
      float* to = out + (k0 + i) * kWidth;
      for (int lane = 0; lane < width; ++lane) to[lane] = rows[lane][i];
      for (int lane = width; lane < kWidth; ++lane) to[lane] = 0;
    }
  }
  Merge(task.range[panel], range);
}

// Rows of x are k: cuts rows [k0, k1) into panels.
template <int kWidth>
inline void PackColumns(const PackTask& task, int64_t k0, int64_t k1, QuantizeFn quantize) {
  constexpr int64_t kLanesAtATime = kSegment / kWidth * kWidth;
  alignas(64) float rounded[kLanesAtATime];
  for (int64_t lane0 = 0; lane0 < task.lanes; lane0 += kLanesAtATime) {
    const int64_t count = Min(kLanesAtATime, task.lanes - lane0);
    const int64_t panels = (count + kWidth - 1) / kWidth;
    PanelRange ranges[kLanesAtATime / kWidth];
    for (int64_t k = k0; k < k1; ++k) {
      const int64_t offset = k * task.lanes + lane0;
      const float* row = task.x + offset;
      if (task.num_stages > 0) {
        RoundStages(task, row, task.index + offset, count, rounded, quantize);
        row = rounded;
      }
      for (int64_t panel = 0; panel < panels; ++panel) {
        const float* from = row + panel * kWidth;
        float* to = task.packed + (lane0 + panel * kWidth) * task.k + k * kWidth;
        const int width = static_cast<int>(Min(count - panel * kWidth, kWidth));
        if (width == kWidth) {
          for (int lane = 0; lane < kWidth; ++lane) to[lane] = from[lane];
        } else {
          for (int lane = 0; lane < kWidth; ++lane) to[lane] = lane < width ? from[lane] : 0;
        }
        PanelRange range = ranges[panel];
        for (int lane = 0; lane < kWidth; ++lane) Include(range, to[lane]);
        ranges[panel] = range;
      }
    }
    for (int64_t panel = 0; panel < panels; ++panel) {
      Merge(task.range[lane0 / kWidth + panel], ranges[panel]);
    }
  }
}

template <int kWidth>
inline void PackPanels(const PackTask& task, int64_t begin, int64_t end, QuantizeFn quantize) {
  if (task.lanes_last) {
    PackColumns<kWidth>(task, begin * MatMul::kPackRows, Min(end * MatMul::kPackRows, task.k),
                        quantize);
  } else {
    for (int64_t panel = begin; panel < end; ++panel) PackRows<kWidth>(task, panel, quantize);
  }
}

inline void Pack(const PackTask& task, int64_t begin, int64_t end, QuantizeFn quantize) {
  if (task.width == kRows) {
    PackPanels<kRows>(task, begin, end, quantize);
  } else {
    PackPanels<kColumns>(task, begin, end, quantize);
  }
}

// ---- Tiles ----

// What a tile is computed from, and its sums.
struct TileTask {
  const MatMulTask* task;
  const float* a;       // [k][kRows]
  const float* b;       // [k][kColumns]
  int64_t row, column;  // of the tile's corner in c
  alignas(64) float sums[kRows][kColumns];
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

// The random state of an output element, or anything beyond the matrix.
inline uint32_t FirstState(const MatMulTask& task, int64_t row, int64_t column) {
  const uint64_t element = static_cast<uint64_t>(task.index + row * task.n + column);
  return FirstRandomState(element, task.stream, PhiloxKey{task.seed[0], task.seed[1]});
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

// One tile, kStepRows of its rows at a time; noinline keeps it within a rounding mode's scope.
template <typename Step, int kStepRows>
__attribute__((noinline)) void StepTile(TileTask& tile) {
  using L = typename Step::Lanes;
  using V = typename L::Vector;
  constexpr int kVectors = kColumns / L::kLanes;
  constexpr bool kRandom = !std::is_same_v<typename Step::State, NoState>;
  const MatMulTask& task = *tile.task;
  const Step step(task.accumulator);
  // The sum of two numbers of m + 1 bits may be rounded to W bits first if W >= 2 (m + 1) + 1
  // (Figueroa, "When is double rounding innocuous?", 1995): float32 up to m = 10, then float64.
  constexpr bool kNearest = !Step::kTowardZero && !std::is_same_v<Step, FmaStep>;
  using FloatStep = std::conditional_t<kNearest, NearestStep<FloatLanes, true, false>, Step>;
  using DoubleStep = std::conditional_t<kNearest, NearestStep<DoubleLanes, true, false>, Step>;
  const FloatStep float_step(task.accumulator);
  const DoubleStep double_step(task.accumulator);
  const bool chunk_in_float = !kNearest || task.accumulator.mantissa_bits <= 10;
  const int64_t chunk = task.accumulator.chunk > 0 ? task.accumulator.chunk : task.k;

  alignas(64) float chunk_sums[kStepRows][kColumns];

  for (int top = 0; top < kRows; top += kStepRows) {
    typename Step::State states[kStepRows * kVectors];
    if constexpr (kRandom) {
      alignas(64) float first[kStepRows][kColumns];
      for (int row = 0; row < kStepRows; ++row) {
        for (int j = 0; j < kColumns; ++j) {
          first[row][j] = FromBits<float>(FirstState(task, tile.row + top + row, tile.column + j));
        }
      }
      ForEach<kStepRows * kVectors>(
          [&](auto i) { states[i].x = L::Load(&first[i / kVectors][i % kVectors * L::kLanes]); });
    }
    for (int64_t begin = 0; begin < task.k; begin += chunk) {
      const int64_t end = Min(begin + chunk, task.k);
      V sums[kStepRows * kVectors];
      ForEach<kStepRows * kVectors>([&](auto i) { sums[i] = L::Set(0.0f); });
      const float* a = tile.a + begin * kRows + top;
      const float* b = tile.b + begin * kColumns;
      for (int64_t k = begin; k < end; ++k, a += kRows, b += kColumns) {
        V right[kVectors];
        ForEach<kVectors>([&](auto v) { right[v] = L::Load(b + v * L::kLanes); });
        ForEach<kStepRows>([&](auto row) {
          const V left = L::Set(a[row]);
          ForEach<kVectors>([&](auto v) {
            constexpr int kIndex = decltype(row)::value * kVectors + decltype(v)::value;
            sums[kIndex] =
                step.template Round<kIndex>(sums[kIndex], left, right[v], states[kIndex]);
          });
        });
      }
      float (*out)[kColumns] = task.accumulator.chunk > 0 ? chunk_sums : tile.sums + top;
      ForEach<kStepRows * kVectors>(
          [&](auto i) { L::Store(&out[i / kVectors][i % kVectors * L::kLanes], sums[i]); });
      if (task.accumulator.chunk <= 0) continue;
      if (chunk_in_float) {
        AddChunk<kStepRows>(float_step, chunk_sums, tile.sums + top, states);
      } else {
        AddChunk<kStepRows>(double_step, chunk_sums, tile.sums + top, states);
      }
    }
  }
}

// Any operands and formats: AccumulateStep, element by element of a row.
template <Rounding kRounding, bool kGapAtZero>
__attribute__((noinline)) void ExactTile(TileTask& tile) {
  const MatMulTask& task = *tile.task;
  const FloatRounder<double> rounder =
      MakeFloatRounder<double>(AccumulatorFormat(task.accumulator), kRounding);
  constexpr bool kRandom = kRounding == Rounding::kStochastic;
  const int64_t chunk = task.accumulator.chunk > 0 ? task.accumulator.chunk : task.k;
  const int64_t steps = task.Steps();
  const int rows = static_cast<int>(Min(task.m - tile.row, kRows));
  const int columns = static_cast<int>(Min(task.n - tile.column, kColumns));
  alignas(64) uint32_t states[kColumns] = {}, random[kColumns] = {};
  for (int row = 0; row < rows; ++row) {
    int64_t steps_done = 0;
    const auto draw = [&] {  // r of the next step
      if (task.random_bits != nullptr) {
        const int32_t* r =
            task.random_bits + ((tile.row + row) * task.n + tile.column) * steps + steps_done++;
        for (int j = 0; j < columns; ++j) random[j] = static_cast<uint32_t>(r[j * steps]);
      } else {
        for (int j = 0; j < kColumns; ++j) {
          states[j] = NextRandomState(states[j]);
          random[j] = states[j] >> (32 - kAccumulatorRandomBits);
        }
      }
    };
    const auto step = [&](float* sums, const float* a, int a_step, const float* b) {
      if constexpr (kRandom) draw();
#pragma GCC ivdep
      for (int j = 0; j < kColumns; ++j) {
        sums[j] =
            AccumulateStep<kRounding, kGapAtZero>(sums[j], a[j * a_step], b[j], rounder, random[j]);
      }
    };
    if (kRandom && task.random_bits == nullptr) {
      for (int j = 0; j < kColumns; ++j) {
        states[j] = FirstState(task, tile.row + row, tile.column + j);
      }
    }
    float* total = tile.sums[row];
    alignas(64) float ones[kColumns];
    for (float& one : ones) one = 1.0f;
    for (int64_t begin = 0; begin < task.k; begin += chunk) {
      const int64_t end = Min(begin + chunk, task.k);
      alignas(64) float sums[kColumns] = {};
      for (int64_t k = begin; k < end; ++k) {
        step(sums, tile.a + k * kRows + row, 0, tile.b + k * kColumns);
      }
      if (task.accumulator.chunk > 0) {
        step(total, sums, 1, ones);
      } else {
        memcpy(total, sums, sizeof(sums));
      }
    }
  }
}

template <typename Step, int kStepRows = kRows>
inline void RunSteps(TileTask& tile) {
  if constexpr (Step::kTowardZero) {
    const ScopedRoundTowardZero toward_zero;
    StepTile<Step, kStepRows>(tile);
  } else {
    StepTile<Step, kStepRows>(tile);
  }
}

inline void RunExact(TileTask& tile) {
  const AccumulatorSpec& spec = tile.task->accumulator;
  const FloatFormat format = AccumulatorFormat(spec);
  const bool gap = !format.subnormals || format.specials == Specials::kDlfloat;
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

inline void RunTile(TileTask& tile, const PathChoice& choice) {
  const bool under = choice.may_underflow;
  switch (choice.path) {
    case AccumulationPath::kNearest:
      return under ? RunSteps<NearestStep<FloatLanes, true, false>>(tile)
                   : RunSteps<NearestStep<FloatLanes, false, false>>(tile);
    case AccumulationPath::kNearestDouble:
      return under ? RunSteps<NearestStep<DoubleLanes, true, false>, kDoubleRows>(tile)
                   : RunSteps<NearestStep<DoubleLanes, false, false>, kDoubleRows>(tile);
    case AccumulationPath::kNearestOdd:
      return under ? RunSteps<NearestStep<OddLanes, true, true>, kOddRows>(tile)
                   : RunSteps<NearestStep<OddLanes, false, true>, kOddRows>(tile);
    case AccumulationPath::kFma:
      return RunSteps<FmaStep>(tile);
    case AccumulationPath::kTruncate:
      return under ? RunSteps<TruncateStep<true>>(tile) : RunSteps<TruncateStep<false>>(tile);
    case AccumulationPath::kStochastic:
      return tile.task->accumulator.mantissa_bits > 23 - kAccumulatorRandomBits
                 ? RunSteps<StochasticStep<true>>(tile)
                 : RunSteps<StochasticStep<false>>(tile);
    case AccumulationPath::kExact:
      break;
  }
  RunExact(tile);
}

// Tiles in columns of tiles: those that follow each other share a panel of b.
inline void Multiply(const MatMulTask& task, int64_t begin, int64_t end) {
  const int64_t row_tiles = (task.m + kRows - 1) / kRows;
  TileTask tile;
  tile.task = &task;
  for (int64_t i = begin; i < end; ++i) {
    const int64_t row_tile = i % row_tiles, column_tile = i / row_tiles;
    tile.row = row_tile * kRows;
    tile.column = column_tile * kColumns;
    tile.a = task.a + tile.row * task.k;
    tile.b = task.b + tile.column * task.k;
    memset(tile.sums, 0, sizeof(tile.sums));
    PathChoice choice;
    if (task.random_bits == nullptr) {
      choice = ChoosePath(task.accumulator, task.a_spec, task.b_spec, task.a_range[row_tile],
                          task.b_range[column_tile], task.k, kSupport);
    }
    RunTile(tile, choice);
    const int64_t rows = Min(task.m - tile.row, kRows);
    const int64_t columns = Min(task.n - tile.column, kColumns);
    for (int64_t row = 0; row < rows; ++row) {
      memcpy(task.c + (tile.row + row) * task.n + tile.column, tile.sums[row],
             static_cast<size_t>(columns) * sizeof(float));
    }
  }
}

LOWPREC_END_NAMESPACE

#endif  // TF_LOWPREC_CC_KERNELS_MATMUL_LOOPS_H_
