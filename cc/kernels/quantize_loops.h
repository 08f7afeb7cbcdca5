// The loops of Quantize, compiled once per instruction set (quantize_portable.cc, …avx2, …avx512):
// the compiler vectorizes the scalar functions of cc/numerics.
#ifndef TF_LOWPREC_CC_KERNELS_QUANTIZE_LOOPS_H_
#define TF_LOWPREC_CC_KERNELS_QUANTIZE_LOOPS_H_

#include <type_traits>

#include "cc/kernels/float_mode.h"
#include "cc/kernels/quantize.h"
#include "cc/kernels/random_words.h"
#include "cc/numerics/rounding.h"

LOWPREC_BEGIN_NAMESPACE

// Stochastic rounding runs in the round-down mode.
template <Rounding kRounding>
constexpr bool kRoundDown = kRounding == Rounding::kStochastic && kHasRoundingModes;

constexpr int kBlock = 256;  // elements whose random words are made at a time
static_assert(kQuantizeGrain % kBlock == 0, "blocks must not straddle shards");

// y[i] = round(x[i], random word i) over one range. `round` is inlined.
template <Rounding kRounding, typename T, typename Round>
inline void QuantizeRange(const QuantizeTask& task, const T* x, int64_t begin, int64_t end,
                          Round round) {
  float* y = task.y;
  if constexpr (kRounding != Rounding::kStochastic) {
#pragma GCC ivdep
    for (int64_t i = begin; i < end; ++i) y[i] = round(x[i], 0u);
    return;
  }
  const ScopedRoundDown round_down;
  if (task.random_bits != nullptr) {
    const int32_t* r = task.random_bits;
#pragma GCC ivdep
    for (int64_t i = begin; i < end; ++i) y[i] = round(x[i], static_cast<uint32_t>(r[i]));
  } else {
    const PhiloxKey key = {task.seed[0], task.seed[1]};
    alignas(64) uint32_t words[kBlock];
    // Blocks of random words are aligned in the tensor; the first and last may be needed in part.
    int64_t next = begin;
    while (next < end) {
      const int64_t element = task.index + next;
      const int skip = static_cast<int>(element % kBlock);
      // Fetched while the random words are made: that keeps the core busy for too long to look
      // ahead.
      for (int line = 0; line < kBlock; line += 16) {
        __builtin_prefetch(x + next + 2 * kBlock + line);
        __builtin_prefetch(y + next + 2 * kBlock + line, 1);
      }
      RandomWords<kBlock>(static_cast<uint64_t>(element - skip), task.stream, key, words);
      const T* xb = x + next;
      float* yb = y + next;
      const uint32_t* w = words + skip;
      const int left = end - next < kBlock - skip ? static_cast<int>(end - next) : kBlock - skip;
      if (left == kBlock) {
#pragma GCC ivdep
        for (int i = 0; i < kBlock; ++i) yb[i] = round(xb[i], w[i] >> (32 - kRandomBits));
      } else {
        for (int i = 0; i < left; ++i) yb[i] = round(xb[i], w[i] >> (32 - kRandomBits));
      }
      next += left;
    }
  }
}

template <Rounding kRounding, typename T>
inline void QuantizeAs(const QuantizeTask& task, const T* x, int64_t begin, int64_t end) {
  if (task.is_fixed) {
    const FixedRounder<T> f =
        MakeFixedRounder<T>(FixedFormat{task.integer_bits, task.fractional_bits});
    QuantizeRange<kRounding>(task, x, begin, end, [f](T value, uint32_t random) {
      return RoundToFixed<kRounding, kRoundDown<kRounding>>(value, f, random);
    });
    return;
  }
  const FloatFormat format = {task.exponent_bits, task.mantissa_bits,
                              static_cast<Specials>(task.specials), task.saturate, task.subnormals};
  const FloatRounder<T> f = MakeFloatRounder<T>(format, kRounding);
  const auto quantize = [&](auto gap, auto wide, auto few) {
    QuantizeRange<kRounding>(task, x, begin, end, [f](T value, uint32_t random) {
      return RoundToFloat<kRounding, decltype(gap)::value, decltype(wide)::value,
                          kRoundDown<kRounding>, decltype(few)::value>(value, f, random);
    });
  };
  using Yes = std::true_type;
  using No = std::false_type;
  const bool wide = task.exponent_bits == 8;
  if (!task.subnormals) {
    wide ? quantize(Yes(), Yes(), No()) : quantize(Yes(), No(), No());
  } else if (task.mantissa_bits <= 22) {
    wide ? quantize(No(), Yes(), Yes()) : quantize(No(), No(), Yes());
  } else {
    wide ? quantize(No(), Yes(), No()) : quantize(No(), No(), No());
  }
}

template <Rounding kRounding>
inline void QuantizeFrom(const QuantizeTask& task, int64_t begin, int64_t end) {
  if (task.x32 != nullptr) {
    QuantizeAs<kRounding>(task, task.x32, begin, end);
  } else {
    QuantizeAs<kRounding>(task, task.x64, begin, end);
  }
}

inline void Quantize(const QuantizeTask& task, int64_t begin, int64_t end) {
  switch (static_cast<Rounding>(task.rounding)) {
    case Rounding::kNearestEven:
      return QuantizeFrom<Rounding::kNearestEven>(task, begin, end);
    case Rounding::kNearestUp:
      return QuantizeFrom<Rounding::kNearestUp>(task, begin, end);
    case Rounding::kStochastic:
      return QuantizeFrom<Rounding::kStochastic>(task, begin, end);
    case Rounding::kTowardZero:
      return QuantizeFrom<Rounding::kTowardZero>(task, begin, end);
  }
}

LOWPREC_END_NAMESPACE

#endif  // TF_LOWPREC_CC_KERNELS_QUANTIZE_LOOPS_H_
