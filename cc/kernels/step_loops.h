// The loops over k of a tile of output elements, in registers; compiled once per instruction set.
#ifndef TF_LOWPREC_CC_KERNELS_STEP_LOOPS_H_
#define TF_LOWPREC_CC_KERNELS_STEP_LOOPS_H_

#include <cstdlib>
#include <type_traits>
#include <utility>

#include "cc/kernels/accumulation_steps.h"
#include "cc/kernels/tile.h"

LOWPREC_BEGIN_NAMESPACE

// Where the left operand's elements are. k falls into runs. Within one, rows lie side by side for
// each k, a step apart; or each lane has a pointer of its own, and its elements lie side by side.
enum class LeftLayout { kRowsTogether, kLanesApart };

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

// Steps k_begin to k_end of a tile, Shape's rows of it at a time; noinline keeps it within a
// rounding mode's scope.
template <typename Step, typename Shape, LeftLayout kLayout>
__attribute__((noinline)) void StepTile(TileTask& tile) {
  using L = typename Step::Lanes;
  constexpr int kVectors = Shape::kVectors, kWidth = kVectors * L::kLanes;
  constexpr int kParts = kColumns / kWidth;
  const Step step(tile.accumulator);
  const typename Step::Careful careful(tile.accumulator);
  const typename Step::Chunk chunk_step(tile.accumulator);
  const int64_t chunk = tile.accumulator.chunk;
  constexpr bool kWidens = kLayout == LeftLayout::kRowsTogether && sizeof(typename L::Bits) == 8;
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
    if constexpr (std::is_same_v<typename Step::Words, NextWords>) {
      sums[0].words.at = tile.history->Next(top / Shape::kRows);
    }
    const TileRun all = {0, tile.k_begin, tile.k_end};
    const TileRun* run = tile.runs != nullptr ? tile.runs : &all;
    int64_t chunk_end = chunk > 0 ? tile.k_begin - tile.k_begin % chunk : tile.k_begin;
    for (int64_t k = tile.k_begin; k < tile.k_end;) {
      chunk_end += chunk > 0 ? chunk : tile.k_end - chunk_end;
      const int64_t end = Min(chunk_end, tile.k_end);
      while (k < end) {
        if (run->k_begin > k) {
          k = Min(run->k_begin, end);
          continue;
        }
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
        if constexpr (kLayout == LeftLayout::kRowsTogether && Step::kHasPlain) {
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
        const int64_t stop = Min(end, run->k_end), from = k - run->k_begin;
        if constexpr (kLayout == LeftLayout::kRowsTogether) {
          const int64_t a_step = tile.a_step;
          const float* a = tile.a + run->offset + from * a_step + top;
          const auto left = [a, a_step](int row, int64_t i) { return a[i * a_step + row]; };
          StepTerms(step, careful, sums, left, b, stop - k);
        } else {
          LanesApart<Shape::kRows> left;
          ForEach<Shape::kRows>(
              [&](auto row) { left.lanes[row] = tile.lanes[top + row] + run->offset + from; });
          StepTerms(step, careful, sums, left, b, stop - k);
        }
        k = stop;
        if (k == run->k_end) ++run;
      }
      if (chunk <= 0 || (end != chunk_end && end != tile.k)) continue;
      for (int part = 0; part < kParts; ++part) {
        AddChunk(chunk_step, sums[part], &tile.totals[top][part * kWidth]);
      }
    }
    for_each_sum([&](auto& sum, auto& state, int row, int column) {
      L::Store(&tile.sums[row][column], sum);
      if constexpr (kRandom<Step>) L::StoreBits(&tile.states[row][column], state.x);
    });
  }
}

LOWPREC_END_NAMESPACE

#endif  // TF_LOWPREC_CC_KERNELS_STEP_LOOPS_H_
