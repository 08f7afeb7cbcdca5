// The loops over k of a tile of output elements, in registers; compiled once per instruction set.
#ifndef TF_LOWPREC_CC_KERNELS_STEP_LOOPS_H_
#define TF_LOWPREC_CC_KERNELS_STEP_LOOPS_H_

#include <cstdlib>
#include <type_traits>
#include <utility>

#include "cc/kernels/accumulation_steps.h"
#include "cc/kernels/drifting_step.h"
#include "cc/kernels/tile.h"

LOWPREC_BEGIN_NAMESPACE

// Where the left operand's elements are. Packed: [k][kRows]. Otherwise each lane has a pointer of
// its own, and k falls into runs, within which its elements lie side by side.
enum class LeftLayout { kPacked, kLanesApart };

// Lanes within a run. k is counted up to 0 from below, for one register to be its end too: with a
// pointer for every lane there are none to spare.
template <int kCount>
struct LanesApart {
  const float* lanes[kCount];
  LOWPREC_HD float operator()(int row, int64_t i) const { return lanes[row][i]; }
};
template <typename Left>
constexpr bool kCountsToZero = false;
template <int kCount>
constexpr bool kCountsToZero<LanesApart<kCount>> = true;

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

template <typename Step>
constexpr bool kRandom = !std::is_same_v<typename Step::State, NoState>;

// Partial sums between loops; in those they are local, so that they are kept in registers.
template <typename Step, typename Shape>
struct Sums {
  typename Step::V s[Shape::kSums];
  typename Step::State states[Shape::kSums];
  typename Step::Words words;
};

// after <- before and `count` terms; left(row, i) is the i-th element of a lane. Returns whether
// the step, if it guesses, is in doubt about a sum.
template <typename Shape, typename Step, typename Sums, typename Left>
inline bool AddTerms(const Step& the_step, const Sums& before, Sums& after, const Left& the_left,
                     const float* b, int64_t count) {
  // Copies where words are stored: for all that the compiler knows, that might change these.
  constexpr bool kStores = std::is_same_v<typename Step::Words, NextWords>;
  const std::conditional_t<kStores, Step, const Step&> step = the_step;
  const std::conditional_t<kStores, Left, const Left&> left = the_left;
  using L = typename Step::Lanes;
  using V = typename L::Vector;
  V s[Shape::kSums];
  typename Step::Doubt doubt = step.None();
  typename Step::State states[Shape::kSums];
  typename Step::Words words = before.words;
  ForEach<Shape::kSums>([&](auto i) { s[i] = before.s[i], states[i] = before.states[i]; });
  constexpr bool kToZero = kCountsToZero<Left>;
  const int64_t end = kToZero ? 0 : count;
  for (int64_t at = end - count; at != end; ++at, b += kColumns) {
    const int64_t i = kToZero ? at + count : at;
    V right[Shape::kVectors];
    ForEach<Shape::kVectors>([&](auto v) { right[v] = L::Load(b + v * L::kLanes); });
    if constexpr (Step::kPairs) {
      static_assert(Shape::kRows % 2 == 0 && Shape::kVectors == 1);
      ForEach<Shape::kRows / 2>([&](auto pair) {
        constexpr int kPair = decltype(pair)::value, kRow = 2 * kPair;
        step.template RoundPair<kPair>(s[kRow], s[kRow + 1], L::Set(left(kRow, i)),
                                       L::Set(left(kRow + 1, i)), right[0], states[kRow],
                                       states[kRow + 1], words, doubt);
      });
      words.Advance();
    } else {
      ForEach<Shape::kRows>([&](auto row) {
        const V a = L::Set(left(row, i));
        ForEach<Shape::kVectors>([&](auto v) {
          constexpr int kIndex = decltype(row)::value * Shape::kVectors + decltype(v)::value;
          s[kIndex] = step.template Round<kIndex>(s[kIndex], a, right[v], states[kIndex], doubt);
        });
      });
    }
  }
  ForEach<Shape::kSums>([&](auto i) { after.s[i] = s[i], after.states[i] = states[i]; });
  after.words = words;
  if constexpr (Step::kGuesses > 0) return step.IsInDoubt(doubt);
  return false;
}

// One term of sums that drift; kUp: the last of its period.
template <bool kUp, typename Step, typename V, int kSums, typename Left>
LOWPREC_HD void AddDriftingTerm(const Step& step, V (&s)[kSums], const Left& left, int64_t i,
                                const float* b) {
  using L = typename Step::Lanes;
  const V right = L::Load(b);
  ForEach<kSums / 2>([&](auto pair) __attribute__((always_inline)) {
    constexpr int kRow = 2 * decltype(pair)::value;
    step.template RoundPair<kUp>(s[kRow], s[kRow + 1], L::Set(left(kRow, i)),
                                 L::Set(left(kRow + 1, i)), right);
  });
}

// The same of sums that drift: sums <- sums and `count` terms. `in_period` is the step's place in
// its period, before and after.
template <typename Step, typename Shape, typename Left>
LOWPREC_HD void AddDrifting(const Step& step, Sums<Step, Shape>& sums, const Left& left,
                            const float* b, int64_t count, int64_t& in_period) {
  static_assert(Shape::kSums % 2 == 0 && Shape::kVectors == 1);
  typename Step::V s[Shape::kSums];
  ForEach<Shape::kSums>([&](auto i) { s[i] = sums.s[i]; });
  constexpr bool kToZero = kCountsToZero<Left>;
  const int64_t end = kToZero ? 0 : count;
  int64_t place = in_period;
  for (int64_t at = end - count; at != end; ++at, b += kColumns) {
    const int64_t last = Min(at + step.period - 1 - place, end);
    place += last - at;
    for (; at != last; ++at, b += kColumns) {
      AddDriftingTerm<false>(step, s, left, kToZero ? at + count : at, b);
    }
    if (at == end) break;
    const Step* up = &step;
    __asm__("" : "+r"(up));  // what only this term needs must not take registers of the loop before
    AddDriftingTerm<true>(*up, s, left, kToZero ? at + count : at, b);
    place = 0;
  }
  in_period = place;
  ForEach<Shape::kSums>([&](auto i) { sums.s[i] = s[i]; });
}

// The same by the step that never guesses. Seldom called.
template <typename Shape, typename Step, typename Sums, typename Left>
__attribute__((noinline)) void AddCarefully(const Step& step, const Sums& before, Sums& after,
                                            const Left& left, const float* b, int64_t count) {
  AddTerms<Shape>(step, before, after, left, b, count);
}

template <typename Step, typename Shape, typename Left>
inline void GuessTerms(const Step& step, const typename Step::Careful& careful,
                       Sums<Step, Shape>& sums, const Left& left, const float* b, int64_t count) {
  if constexpr (Step::kGuesses == 0) {
    AddTerms<Shape>(step, sums, sums, left, b, count);
  } else {
    Sums<Step, Shape> other, *before = &sums, *after = &other;
    for (int64_t first = 0; first < count; first += Step::kGuesses) {
      const int64_t n = Min(count - first, Step::kGuesses);
      const float* right = b + first * kColumns;
      const auto next = [&](int row, int64_t i) { return left(row, first + i); };
      if (__builtin_expect(AddTerms<Shape>(step, *before, *after, next, right, n), 0)) {
        AddCarefully<Shape>(careful, *before, *after, next, right, n);
      }
      Sums<Step, Shape>* swap = before;
      before = after;
      after = swap;
    }
    if (before != &sums) sums = *before;
  }
}

// Adds terms to the sums of some rows and of all columns, part by part.
template <typename Step, typename Shape, int kParts, typename Left>
inline void StepTerms(const Step& step, const typename Step::Careful& careful,
                      Sums<Step, Shape> (&sums)[kParts], const Left& left, const float* b,
                      int64_t count) {
  if constexpr (sizeof(typename Step::Lanes::Bits) == 8) {
    // As doubles in memory, so that the multiply can take them from there.
    constexpr int64_t kBlock = 32;
    alignas(64) double wide[kBlock][Shape::kRows];
    for (int64_t first = 0; first < count; first += kBlock) {
      const int64_t block = Min(count - first, kBlock);
      for (int64_t i = 0; i < block; ++i) {
        ForEach<Shape::kRows>(
            [&](auto row) { wide[i][row] = static_cast<double>(left(row, first + i)); });
      }
      for (int part = 0; part < kParts; ++part) {
        GuessTerms<Step, Shape>(
            step, careful, sums[part], [&](int row, int64_t i) { return wide[i][row]; },
            b + first * kColumns + part * (kColumns / kParts), block);
      }
    }
  } else {
    static_assert(kParts == 1, "a register is as wide as a tile");
    GuessTerms<Step, Shape>(step, careful, sums[0], left, b, count);
  }
}

// Whether float32 is right for terms k_begin to k_end: the sums and products are multiples of u =
// 2^(exponent - 24), and products less than 2^exponent.
template <typename Step, typename Shape>
LOWPREC_HD bool IsRightFor(const TileTask& tile, const Sums<Step, Shape>& sums, int64_t k_begin,
                           int64_t k_end) {
  using L = typename Step::Lanes;
  using V = typename Step::V;
  const ProductBounds p =
      BoundsOfProducts(tile.a_bounds, tile.b_bounds, k_begin - tile.k_begin, k_end - tile.k_begin);
  if (p.exponent > p.quantum + 24) return false;
  // u is the last place of 2^(exponent - 1), of which 1.5 times as much need not have a sum's sign.
  const V big = L::Set(0.75f * PowerOfTwo(Max(p.exponent, -100)));
  V rest = L::Set(0);
  ForEach<Shape::kSums>([&](auto i) {
    const V s = sums.s[i];
    rest = L::Or(rest, L::Sub(s, L::Sub(L::Add(s, big), big)));
  });
  return !L::AnyBits(rest);
}

// The packed left operand as float64, or nullptr if there is no room for it.
inline const double* Widened(const TileTask& tile) {
  WidePanel* const wide = tile.wide;
  if (wide == nullptr) return nullptr;
  const int64_t size = (tile.k_end - tile.k_begin) * kRows;
  if (wide->elements == nullptr) {
    wide->elements = static_cast<double*>(malloc(static_cast<size_t>(size) * sizeof(double)));
    if (wide->elements == nullptr) return nullptr;
  }
  if (wide->of != tile.a) {
    for (int64_t i = 0; i < size; ++i) wide->elements[i] = static_cast<double>(tile.a[i]);
    wide->of = tile.a;
  }
  return wide->elements;
}

// totals <- round(totals + sums), and sums <- 0. Inlined, so that sums stay in registers from one
// chunk to the next.
template <typename Chunk, typename Step, typename Shape>
LOWPREC_HD void AddChunk(const Chunk& step, Sums<Step, Shape>& sums, float* totals) {
  using L = typename Step::Lanes;
  if constexpr (kRandom<Step>) {
    typename Chunk::Doubt doubt = step.None();
    ForEach<Shape::kSums / 2>([&](auto pair) __attribute__((always_inline)) {
      constexpr int kPair = decltype(pair)::value, kRow = 2 * kPair;
      float* const to = totals + kRow * kColumns;
      typename L::Vector total0 = L::Load(to), total1 = L::Load(to + kColumns);
      step.template RoundPair<kPair>(total0, total1, sums.s[kRow], sums.s[kRow + 1], L::Set(1),
                                     sums.states[kRow], sums.states[kRow + 1], sums.words, doubt);
      L::Store(to, total0);
      L::Store(to + kColumns, total1);
    });
    sums.words.Advance();
  } else {
    ForEach<Shape::kSums>([&](auto i) __attribute__((always_inline)) {
      constexpr int kRow = i / Shape::kVectors, kColumn = i % Shape::kVectors * L::kLanes;
      step.Add(totals + kRow * kColumns + kColumn, sums.s[i], sums.states[i]);
    });
  }
  ForEach<Shape::kSums>([&](auto i) { sums.s[i] = L::Set(0); });
}

// The same of sums that drift, which `scale` takes out of their scale.
template <typename Chunk, typename Step, typename Shape>
LOWPREC_HD void AddDriftingChunk(const Chunk& step, Sums<Step, Shape>& sums, typename Step::V scale,
                                 float* totals) {
  ForEach<Shape::kSums>([&](auto i) __attribute__((always_inline)) {
    step.Add(totals + i * kColumns, sums.s[i], scale);
  });
  ForEach<Shape::kSums>([&](auto i) { sums.s[i] = Step::Lanes::Set(0); });
}

template <typename Step>
Step MakeStep(const TileTask& tile) {
  if constexpr (Step::kDrifts) {
    return Step(tile.drift);
  } else {
    return Step(tile.accumulator);
  }
}

// Steps k_begin to k_end of a tile, Shape's rows of it at a time; noinline keeps it within a
// rounding mode's scope.
template <typename Step, typename Shape, LeftLayout kLayout>
__attribute__((noinline)) void StepTile(TileTask& tile) {
  using L = typename Step::Lanes;
  constexpr int kVectors = Shape::kVectors, kWidth = kVectors * L::kLanes;
  constexpr int kParts = kColumns / kWidth;
  const Step step = MakeStep<Step>(tile);
  const typename Step::Careful careful = MakeStep<typename Step::Careful>(tile);
  const typename Step::Chunk chunk_step(tile.accumulator);
  const int64_t chunk = tile.accumulator.chunk;
  constexpr bool kDrifts = Step::kDrifts;
  constexpr bool kWidens = kLayout == LeftLayout::kPacked && sizeof(typename L::Bits) == 8;
  [[maybe_unused]] const double* wide = nullptr;
  if constexpr (kWidens) wide = Widened(tile);

  for (int top = 0; top < kRows; top += Shape::kRows) {
    Sums<Step, Shape> sums[kParts];
    const auto for_each_sum = [&](const auto& f) {  // f(sum, its state, row, column)
      for (int part = 0; part < kParts; ++part) {
        ForEach<Shape::kSums>([&](auto i) {
          f(sums[part].s[i], sums[part].states[i], top + i / kVectors,
            part * kWidth + i % kVectors * L::kLanes);
        });
      }
    };
    for_each_sum([&](auto& sum, auto& state, int row, int column) {
      sum = L::Load(&tile.sums[row][column]);
      if constexpr (kRandom<Step>) state.x = L::LoadBits(&tile.states[row][column]);
    });
    [[maybe_unused]] int64_t in_period = kDrifts ? tile.k_begin % tile.drift.period : 0;
    // Into the scale of a step of the period, or out of it.
    [[maybe_unused]] const auto scale = [&](int sign) {
      const typename L::Vector power = L::Set(PowerOfTwo(sign * tile.drift.ExponentAt(in_period)));
      ForEach<Shape::kSums>([&](auto i) { sums[0].s[i] = L::Product(sums[0].s[i], power); });
    };
    if constexpr (kDrifts) scale(1);
    if constexpr (std::is_same_v<typename Step::Words, NextWords>) {
      sums[0].words.at = tile.history->Next(top / Shape::kRows);
    }
    const TileRun* run = tile.runs;
    int64_t chunk_end = chunk > 0 ? tile.k_begin - tile.k_begin % chunk : tile.k_begin;
    for (int64_t k = tile.k_begin; k < tile.k_end;) {
      chunk_end += chunk > 0 ? chunk : tile.k_end - chunk_end;
      const int64_t end = Min(chunk_end, tile.k_end);
      while (k < end) {
        const float* b = tile.b + (k - tile.k_begin) * kColumns;
        if constexpr (kWidens) {
          if (wide != nullptr) {
            const double* a = wide + (k - tile.k_begin) * kRows + top;
            const auto left = [a](int row, int64_t i) { return a[i * kRows + row]; };
            for (int part = 0; part < kParts; ++part) {
              GuessTerms(step, careful, sums[part], left, b + part * kWidth, end - k);
            }
            k = end;
            continue;
          }
        }
        if constexpr (kLayout == LeftLayout::kPacked && Step::kHasPlain) {
          if (tile.a_bounds.exponent != nullptr) {
            constexpr int64_t kMost = 64;
            int64_t n = Min(end - k, kMost);
            bool is_right = IsRightFor(tile, sums[0], k, k + n);
            if (!is_right && n > Step::kGuesses) {
              n = Step::kGuesses;
              is_right = IsRightFor(tile, sums[0], k, k + n);
            }
            const float* a = tile.a + (k - tile.k_begin) * kRows + top;
            const auto left = [a](int row, int64_t i) { return a[i * kRows + row]; };
            if (is_right) {
              AddTerms<Shape>(step.plain, sums[0], sums[0], left, b, n);
            } else {
              GuessTerms(step, careful, sums[0], left, b, n);
            }
            k += n;
            continue;
          }
        }
        if constexpr (kLayout == LeftLayout::kPacked) {
          const float* a = tile.a + (k - tile.k_begin) * kRows + top;
          const auto left = [a](int row, int64_t i) { return a[i * kRows + row]; };
          if constexpr (kDrifts) {
            AddDrifting(step, sums[0], left, b, end - k, in_period);
          } else {
            StepTerms(step, careful, sums, left, b, end - k);
          }
          k = end;
        } else {
          const int64_t stop = Min(end, run->k_end), from = k - run->k_begin;
          LanesApart<Shape::kRows> left;
          ForEach<Shape::kRows>(
              [&](auto row) { left.lanes[row] = tile.lanes[top + row] + run->offset + from; });
          if constexpr (kDrifts) {
            AddDrifting(step, sums[0], left, b, stop - k, in_period);
          } else {
            StepTerms(step, careful, sums, left, b, stop - k);
          }
          k = stop;
          if (k == run->k_end) ++run;
        }
      }
      if (chunk <= 0 || (end != chunk_end && end != tile.k)) continue;
      if constexpr (kDrifts) {
        AddDriftingChunk(chunk_step, sums[0], L::Set(PowerOfTwo(-tile.drift.ExponentAt(in_period))),
                         &tile.totals[top][0]);
      } else {
        for (int part = 0; part < kParts; ++part) {
          AddChunk(chunk_step, sums[part], &tile.totals[top][part * kWidth]);
        }
      }
    }
    if constexpr (kDrifts) scale(-1);
    for_each_sum([&](auto& sum, auto& state, int row, int column) {
      L::Store(&tile.sums[row][column], sum);
      if constexpr (kRandom<Step>) L::StoreBits(&tile.states[row][column], state.x);
    });
  }
}

LOWPREC_END_NAMESPACE

#endif  // TF_LOWPREC_CC_KERNELS_STEP_LOOPS_H_
