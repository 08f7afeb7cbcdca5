// The loops of tile.h, compiled once per instruction set.
#ifndef TF_LOWPREC_CC_KERNELS_TILE_LOOPS_H_
#define TF_LOWPREC_CC_KERNELS_TILE_LOOPS_H_

#include "cc/kernels/accumulation_steps.h"
#include "cc/kernels/step_loops.h"
#include "cc/kernels/stochastic_step.h"
#include "cc/kernels/tile.h"

LOWPREC_BEGIN_NAMESPACE

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
    // A NaN stays one, so that a row of them is done: a step that overflowed is full of such rows.
    const auto all_nan = [&] {
      bool all = true;
      for (int j = 0; j < tile.columns; ++j) {
        all = all && (sums[j] != sums[j] || totals[j] != totals[j]);
      }
      return all;
    };
    for (int64_t k = tile.k_begin; k < tile.k_end; ++k) {
      constexpr int64_t kOften = 16;
      if ((k - tile.k_begin) % kOften == 0 && all_nan()) {
        for (int j = 0; j < tile.columns; ++j) totals[j] = FromBits<float>(kCanonicalNan);
        break;
      }
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

template <typename Step, typename Shape, LeftLayout kLayout = LeftLayout::kRowsTogether>
inline void RunSteps(TileTask& tile) {
  if constexpr (Step::kTowardZero) {
    const ScopedRoundTowardZero toward_zero;
    StepTile<Step, Shape, kLayout>(tile);
  } else {
    StepTile<Step, Shape, kLayout>(tile);
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

// kNearestOdd where the lanes are too narrow for rounding float32 to odd.
template <bool kUnderflow, LeftLayout kLayout>
inline void RunGuesses(TileTask& tile) {
#if defined(__AVX2__) && !defined(__AVX512F__)
  if (AllowsScaled(FloatLanes::kMantissaBits, tile.accumulator.mantissa_bits)) {
    return RunSteps<GuessFloatStep<kUnderflow>, StepShape<kRows / 2, 1>, kLayout>(tile);
  }
#endif
  RunSteps<GuessOddStep<kUnderflow>, GuessOddShape, kLayout>(tile);
}

// A long sum takes its random bits from a history, once that is long enough.
template <StochasticBits kBits, LeftLayout kLayout>
inline void RunStochastic(TileTask& tile) {
  using Source = RandomSource;
  constexpr bool kGuess = kBits == StochasticBits::kFewer;
  RandomHistory* const history = tile.history;
  const int64_t k = tile.k, chunk = tile.accumulator.chunk;
  if (history == nullptr || tile.k_begin != 0 || tile.k_end < k || k < 2 * kLongestLag ||
      !history->Allocate()) {
    return RunSteps<StochasticStep<kBits, kGuess, Source::kStates>, StochasticShape, kLayout>(tile);
  }
  const float *const a = tile.a, *const b = tile.b;
  const TileRun* const runs = tile.runs;
  history->steps = 0;
  const int64_t most = RandomHistory::MostTerms(chunk);
  for (int64_t begin = 0; begin < k; begin = tile.k_end) {
    if (begin > 0) history->Forget();
    tile.k_begin = begin;
    tile.k_end = begin > 0 ? Min(begin + most, k) : kLongestLag;
    tile.b = b + begin * kColumns;
    if (runs == nullptr) {
      tile.a = a + begin * tile.a_step;
    } else {
      while (tile.runs->k_end <= begin) ++tile.runs;
    }
    if (begin > 0) {
      RunSteps<StochasticStep<kBits, kGuess, Source::kHistory>, StochasticShape, kLayout>(tile);
    } else {
      RunSteps<StochasticStep<kBits, kGuess, Source::kKeptStates>, StochasticShape, kLayout>(tile);
    }
    const auto chunks = [&](int64_t end) {
      return chunk <= 0 ? 0 : end < k ? end / chunk : (end + chunk - 1) / chunk;
    };
    history->steps += tile.k_end - begin + chunks(tile.k_end) - chunks(begin);
  }
  tile.k_begin = 0;
  tile.a = a;
  tile.b = b;
  tile.runs = runs;
}

// For a choice that TakesAnyLayout, or a packed tile whose sums will not overflow.
template <LeftLayout kLayout>
inline void RunFastTile(TileTask& tile, const PathChoice& choice) {
  constexpr NearestMethod kScaled = NearestMethod::kScaled, kVeltkamp = NearestMethod::kVeltkamp;
  const int m = tile.accumulator.mantissa_bits;
  constexpr bool kFloatOdd = OddLanes::kMantissaBits == FloatLanes::kMantissaBits;
#if defined(__AVX2__)
  if (choice.float_for_few) return RunSteps<CheckedStep, FloatShape, kLayout>(tile);
#endif
  switch (choice.path) {
    case AccumulationPath::kNearest:
      return AllowsScaled(FloatLanes::kMantissaBits, m)
                 ? RunSteps<NearestStep<FloatLanes, kScaled, false>, FloatShape, kLayout>(tile)
                 : RunSteps<NearestStep<FloatLanes, kVeltkamp, false>, FloatShape, kLayout>(tile);
    case AccumulationPath::kNearestDouble:
      return RunSteps<NearestStep<DoubleLanes, kScaled, false>, DoubleShape, kLayout>(tile);
    case AccumulationPath::kNearestOdd:
      if constexpr (kFloatOdd) {
        return AllowsScaled(FloatLanes::kMantissaBits, m)
                   ? RunSteps<NearestStep<OddLanes, kScaled, true>, FloatShape, kLayout>(tile)
                   : RunSteps<NearestStep<OddLanes, kVeltkamp, true>, FloatShape, kLayout>(tile);
      } else {
        return RunGuesses<false, kLayout>(tile);
      }
    case AccumulationPath::kFma:
      return RunSteps<FmaStep, FloatShape, kLayout>(tile);
    case AccumulationPath::kTruncate:
      return RunSteps<TruncateStep<false>, FloatShape, kLayout>(tile);
    case AccumulationPath::kStochastic: {
      using Bits = StochasticBits;
      const int drop = FloatLanes::kMantissaBits - m;
      if (drop > kAccumulatorRandomBits) return RunStochastic<Bits::kMore, kLayout>(tile);
      return drop == kAccumulatorRandomBits ? RunStochastic<Bits::kAsMany, kLayout>(tile)
                                            : RunStochastic<Bits::kFewer, kLayout>(tile);
    }
    case AccumulationPath::kExact:
      return;
  }
}

// Sums that may lie below the lowest normal binade, with terms left out or not.
template <bool kMasked>
inline void RunUnderflow(TileTask& tile, const PathChoice& choice) {
  constexpr bool kFloatOdd = OddLanes::kMantissaBits == FloatLanes::kMantissaBits;
  constexpr NearestMethod kUnderflow = NearestMethod::kUnderflow;
  switch (choice.path) {
    case AccumulationPath::kNearest:
      return RunSteps<LowFloatStep<kMasked>, FloatShape>(tile);
    case AccumulationPath::kNearestDouble:
      return RunSteps<LowDoubleStep<kMasked>, DoubleShape>(tile);
    case AccumulationPath::kNearestOdd:
      if constexpr (kFloatOdd) {
        return RunSteps<NearestStep<OddLanes, kUnderflow, true, kMasked>, FloatShape>(tile);
      } else if constexpr (kMasked) {
        return RunSteps<NearestStep<OddLanes, kUnderflow, true, true>, DoubleShape>(tile);
      } else {
        return RunGuesses<true, LeftLayout::kRowsTogether>(tile);
      }
    case AccumulationPath::kTruncate:
      return RunSteps<TruncateStep<true, kMasked>, FloatShape>(tile);
    default:
      return RunExact(tile);
  }
}

// All sums and totals are less than 2^this.
inline int64_t ExponentOfSums(const TileTask& tile) {
  uint32_t most = 0;
  for (int row = 0; row < kRows; ++row) {
    for (int j = 0; j < kColumns; ++j) {
      most = Max(most, ToBits<float>(tile.sums[row][j]) & 0x7FFFFFFFu);
      most = Max(most, ToBits<float>(tile.totals[row][j]) & 0x7FFFFFFFu);
    }
  }
  return static_cast<int64_t>(most >> 23) - 126;  // of a NaN or an infinity too large
}

// kStochastic for sums that might overflow: some terms at a time, after a look at the sums.
inline void RunGrowing(TileTask& tile, const PathChoice& choice) {
  const FloatFormat format = AccumulatorFormat(tile.accumulator);
  const int m = tile.accumulator.mantissa_bits;
  const int64_t chunk = tile.accumulator.chunk;
  const int64_t most = Min(Max(int64_t{2} << m, 8), 256);  // (1 + 2^-m)^n is at most 2^8
  const float *const a = tile.a, *const b = tile.b;
  const int64_t k_begin = tile.k_begin, k_end = tile.k_end;
  RandomHistory* const history = tile.history;
  tile.history = nullptr;
  for (int64_t begin = k_begin; begin < k_end; begin = tile.k_end) {
    tile.k_begin = begin;
    tile.k_end = Min(begin + most, k_end);
    tile.a = a + (begin - k_begin) * kRows;
    tile.b = b + (begin - k_begin) * kColumns;
    const int64_t n = tile.k_end - begin, start = ExponentOfSums(tile);
    int64_t sum = GrownExponent(start, choice.term, n, m);
    if (chunk > 0) sum = GrownExponent(start, sum, Min(n, n / chunk + 2), m);
    if (HoldsSums(format, sum)) {
      RunFastTile<LeftLayout::kRowsTogether>(tile, choice);
    } else {
      RunExact(tile);
    }
  }
  tile.k_begin = k_begin;
  tile.a = a;
  tile.b = b;
  tile.history = history;
}

void RunTile(TileTask& tile, const PathChoice& choice) {
  if (choice.may_overflow) return tile.masked ? RunExact(tile) : RunGrowing(tile, choice);
  if (TakesAnyLayout(choice)) return RunFastTile<LeftLayout::kRowsTogether>(tile, choice);
  tile.masked ? RunUnderflow<true>(tile, choice) : RunUnderflow<false>(tile, choice);
}

void RunTileInPlace(TileTask& tile, const PathChoice& choice) {
  RunFastTile<LeftLayout::kLanesApart>(tile, choice);
}

LOWPREC_END_NAMESPACE

#endif  // TF_LOWPREC_CC_KERNELS_TILE_LOOPS_H_
