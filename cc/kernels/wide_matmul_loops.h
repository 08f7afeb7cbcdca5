// The loops of WideMatMul, compiled once per instruction set.
#ifndef TF_LOWPREC_CC_KERNELS_WIDE_MATMUL_LOOPS_H_
#define TF_LOWPREC_CC_KERNELS_WIDE_MATMUL_LOOPS_H_

#if defined(__AVX2__)
#include <immintrin.h>
#elif defined(__SSE2__)
#include <emmintrin.h>
#endif

#include <cstring>

#include "cc/kernels/wide_matmul.h"
#include "cc/numerics/format.h"

LOWPREC_BEGIN_NAMESPACE

// 32-bit lanes, each of which multiplies and adds a pair of 16-bit integers.
#if defined(__AVX512BW__)
struct PairLanes {
  using Vector = __m512i;
  static constexpr int kLanes = 16;
  static Vector Zero() { return _mm512_setzero_si512(); }
  static Vector Load(const int32_t* p) { return _mm512_loadu_si512(p); }
  static Vector Broadcast(int32_t pair) { return _mm512_set1_epi32(pair); }
  static Vector MultiplyAdd(Vector sum, Vector a, Vector b) {
    return _mm512_add_epi32(sum, _mm512_madd_epi16(a, b));
  }
  static void Store(int32_t* p, Vector v) { _mm512_storeu_si512(p, v); }
};
constexpr int kRows = 4, kVectors = 2;  // 16 accumulators
#elif defined(__AVX2__)
struct PairLanes {
  using Vector = __m256i;
  static constexpr int kLanes = 8;
  static Vector Zero() { return _mm256_setzero_si256(); }
  static Vector Load(const int32_t* p) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  }
  static Vector Broadcast(int32_t pair) { return _mm256_set1_epi32(pair); }
  static Vector MultiplyAdd(Vector sum, Vector a, Vector b) {
    return _mm256_add_epi32(sum, _mm256_madd_epi16(a, b));
  }
  static void Store(int32_t* p, Vector v) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), v); }
};
constexpr int kRows = 4, kVectors = 1;  // 8 accumulators
#elif defined(__SSE2__)
struct PairLanes {
  using Vector = __m128i;
  static constexpr int kLanes = 4;
  static Vector Zero() { return _mm_setzero_si128(); }
  static Vector Load(const int32_t* p) {
    return _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  }
  static Vector Broadcast(int32_t pair) { return _mm_set1_epi32(pair); }
  static Vector MultiplyAdd(Vector sum, Vector a, Vector b) {
    return _mm_add_epi32(sum, _mm_madd_epi16(a, b));
  }
  static void Store(int32_t* p, Vector v) { _mm_storeu_si128(reinterpret_cast<__m128i*>(p), v); }
};
constexpr int kRows = 4, kVectors = 1;
#else
struct PairLanes {
  struct Vector {
    int32_t pair[8];
  };
  static constexpr int kLanes = 8;
  static Vector Zero() { return Vector{}; }
  static Vector Load(const int32_t* p) {
    Vector v;
    memcpy(&v, p, sizeof(v));
    return v;
  }
  static Vector Broadcast(int32_t pair) {
    Vector v;
    for (int i = 0; i < kLanes; ++i) v.pair[i] = pair;
    return v;
  }
  static Vector MultiplyAdd(Vector sum, Vector a, Vector b) {
    for (int i = 0; i < kLanes; ++i) {
      const int32_t first = static_cast<int16_t>(a.pair[i]) * static_cast<int16_t>(b.pair[i]);
      sum.pair[i] += first + (a.pair[i] >> 16) * (b.pair[i] >> 16);
    }
    return sum;
  }
  static void Store(int32_t* p, Vector v) { memcpy(p, &v, sizeof(v)); }
};
constexpr int kRows = 4, kVectors = 1;
#endif

constexpr int kColumns = kVectors * PairLanes::kLanes;
constexpr int64_t kPairsPerBlock = 128;  // 32-bit accumulators hold 256 terms
constexpr int64_t kRowsPerBlock = 256;   // rows of c whose 64-bit sums are kept at a time

// k of k * 2^-FL. The clamps keep any float, NaN too, within defined behaviour.
LOWPREC_HD int32_t ToInteger(float x, float scale) {
  float y = x * scale;
  y = y > -32768.0f ? y : -32768.0f;
  y = y < 32767.0f ? y : 32767.0f;
  return static_cast<int32_t>(y);
}

LOWPREC_HD int32_t Pair(int32_t first, int32_t second) {
  return static_cast<int32_t>((static_cast<uint32_t>(first) & 0xFFFFu) |
                              (static_cast<uint32_t>(second) << 16));
}

// Panels of kRows rows: for each pair of k, the pairs of the kRows rows side by side.
inline void PackA(const WideMatMulTask& task, int64_t begin, int64_t end) {
  const int64_t pairs = (task.k + 1) / 2;
  const float scale = PowerOfTwo(task.a_fractional_bits);
  const int64_t row_step = task.transpose_a ? 1 : task.k;
  const int64_t k_step = task.transpose_a ? task.m : 1;
  for (int64_t panel = begin; panel < end; ++panel) {
    int32_t* out = static_cast<int32_t*>(task.packed_a) + panel * pairs * kRows;
    for (int row = 0; row < kRows; ++row) {
      const int64_t i = panel * kRows + row;
      if (i >= task.m) {
        for (int64_t p = 0; p < pairs; ++p) out[p * kRows + row] = 0;
        continue;
      }
      const float* x = task.a + i * row_step;
      bool nan = false;
      for (int64_t p = 0; p < task.k / 2; ++p) {
        const float x0 = x[2 * p * k_step], x1 = x[(2 * p + 1) * k_step];
        nan |= (x0 != x0) | (x1 != x1);
        out[p * kRows + row] = Pair(ToInteger(x0, scale), ToInteger(x1, scale));
      }
      if (task.k % 2 != 0) {
        const float x0 = x[(task.k - 1) * k_step];
        nan |= x0 != x0;
        out[(pairs - 1) * kRows + row] = Pair(ToInteger(x0, scale), 0);
      }
      task.a_has_nan[i] = nan;
    }
  }
}

// Two terms of kColumns columns, split into low and high bytes.
struct SplitPairs {
  int32_t low[kColumns], high[kColumns];
};

// Pairs [first, first + count) of one panel of columns; nan[j] gathers the columns' NaNs.
inline void PackB(const WideMatMulTask& task, int64_t column, int64_t first, int64_t count,
                  SplitPairs* out, uint8_t* nan) {
  const float scale = PowerOfTwo(task.b_fractional_bits);
  const int64_t left = task.n - column;
  const int width = static_cast<int>(left < kColumns ? left : kColumns);
  const int64_t k_step = task.transpose_b ? 1 : task.n;
  const int64_t column_step = task.transpose_b ? task.k : 1;
  const auto put = [](SplitPairs* pairs, int j, int32_t q0, int32_t q1) {
    pairs->low[j] = Pair(q0 & 0xFF, q1 & 0xFF);
    pairs->high[j] = Pair(q0 >> 8, q1 >> 8);
  };
  const float* b = task.b + column * column_step;
  if (width < kColumns) memset(out, 0, static_cast<size_t>(count) * sizeof(SplitPairs));
  const int64_t whole = (first + count) * 2 <= task.k ? count : count - 1;
  if (task.transpose_b) {
    for (int j = 0; j < width; ++j) {
      const float* x = b + j * column_step + 2 * first;
      bool has_nan = false;
      for (int64_t p = 0; p < whole; ++p) {
        has_nan |= (x[2 * p] != x[2 * p]) | (x[2 * p + 1] != x[2 * p + 1]);
        put(out + p, j, ToInteger(x[2 * p], scale), ToInteger(x[2 * p + 1], scale));
      }
      nan[j] = nan[j] | has_nan;
    }
  } else {
    for (int64_t p = 0; p < whole; ++p) {
      const float* x0 = b + 2 * (first + p) * k_step;
      const float* x1 = x0 + k_step;
#pragma GCC ivdep
      for (int j = 0; j < width; ++j) {
        put(out + p, j, ToInteger(x0[j], scale), ToInteger(x1[j], scale));
      }
      for (int j = 0; j < width; ++j) nan[j] |= (x0[j] != x0[j]) | (x1[j] != x1[j]);
    }
  }
  if (whole < count) {  // the last term of an odd k
    for (int j = 0; j < width; ++j) {
      const float x0 = b[(task.k - 1) * k_step + j * column_step];
      nan[j] |= x0 != x0;
      put(out + whole, j, ToInteger(x0, scale), 0);
    }
  }
}

// sums[row][column] += the dot products of kRows rows and kColumns columns over `count` pairs.
inline void MultiplyTile(const int32_t* a, const SplitPairs* b, int64_t count,
                         int64_t sums[kRows][kColumns]) {
  using L = PairLanes;
  L::Vector low[kRows][kVectors], high[kRows][kVectors];
  for (int row = 0; row < kRows; ++row) {
    for (int v = 0; v < kVectors; ++v) low[row][v] = high[row][v] = L::Zero();
  }
  for (int64_t p = 0; p < count; ++p, a += kRows, ++b) {
    L::Vector b_low[kVectors], b_high[kVectors];
    for (int v = 0; v < kVectors; ++v) {
      b_low[v] = L::Load(b->low + v * L::kLanes);
      b_high[v] = L::Load(b->high + v * L::kLanes);
    }
#pragma GCC unroll 4
    for (int row = 0; row < kRows; ++row) {
      const L::Vector pair = L::Broadcast(a[row]);
      for (int v = 0; v < kVectors; ++v) {
        low[row][v] = L::MultiplyAdd(low[row][v], pair, b_low[v]);
        high[row][v] = L::MultiplyAdd(high[row][v], pair, b_high[v]);
      }
    }
  }
  alignas(64) int32_t l[kColumns], h[kColumns];
  for (int row = 0; row < kRows; ++row) {
    for (int v = 0; v < kVectors; ++v) {
      L::Store(l + v * L::kLanes, low[row][v]);
      L::Store(h + v * L::kLanes, high[row][v]);
    }
    for (int j = 0; j < kColumns; ++j) sums[row][j] += l[j] + int64_t{256} * h[j];
  }
}

inline void Multiply(const WideMatMulTask& task, int64_t begin, int64_t end) {
  const int64_t pairs = (task.k + 1) / 2;
  const double unit = 1.0 / (static_cast<double>(int64_t{1} << task.a_fractional_bits) *
                             static_cast<double>(int64_t{1} << task.b_fractional_bits));
  alignas(64) static thread_local SplitPairs b[kPairsPerBlock];
  alignas(64) static thread_local int64_t sums[kRowsPerBlock / kRows][kRows][kColumns];
  for (int64_t panel = begin; panel < end; ++panel) {
    const int64_t column = panel * kColumns;
    const int64_t left = task.n - column;
    const int width = static_cast<int>(left < kColumns ? left : kColumns);
    for (int64_t top = 0; top < task.m; top += kRowsPerBlock) {
      const int64_t bottom = top + kRowsPerBlock < task.m ? top + kRowsPerBlock : task.m;
      const int64_t tiles = (bottom - top + kRows - 1) / kRows;
      uint8_t nan[kColumns] = {};
      memset(sums, 0, static_cast<size_t>(tiles) * sizeof(sums[0]));
      for (int64_t first = 0; first < pairs; first += kPairsPerBlock) {
        const int64_t rest = pairs - first;
        const int64_t count = rest < kPairsPerBlock ? rest : kPairsPerBlock;
        PackB(task, column, first, count, b, nan);
        for (int64_t tile = 0; tile < tiles; ++tile) {
          const int32_t* a = static_cast<const int32_t*>(task.packed_a) +
                             ((top / kRows + tile) * pairs + first) * kRows;
          MultiplyTile(a, b, count, sums[tile]);
        }
      }
      for (int64_t i = top; i < bottom; ++i) {
        const int64_t* sum = sums[(i - top) / kRows][(i - top) % kRows];
        double* c = task.c + i * task.n + column;
        for (int j = 0; j < width; ++j) c[j] = static_cast<double>(sum[j]) * unit;
        for (int j = 0; j < width; ++j) {
          if (task.a_has_nan[i] | nan[j]) c[j] = __builtin_nan("");
        }
      }
    }
  }
}

LOWPREC_END_NAMESPACE

#endif  // TF_LOWPREC_CC_KERNELS_WIDE_MATMUL_LOOPS_H_
