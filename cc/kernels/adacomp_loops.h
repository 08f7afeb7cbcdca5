// The encoder's loops, compiled once per instruction set (adacomp_portable.cc, …avx2, …avx512).
#ifndef TF_LOWPREC_CC_KERNELS_ADACOMP_LOOPS_H_
#define TF_LOWPREC_CC_KERNELS_ADACOMP_LOOPS_H_

#if defined(__AVX2__)
#include <immintrin.h>
#endif

#include <cmath>
#include <cstdint>
#include <cstring>

#include "cc/kernels/adacomp.h"
#include "cc/numerics/adacomp_codes.h"
#include "cc/numerics/adacomp_select.h"

LOWPREC_BEGIN_NAMESPACE

#if defined(__AVX512F__)

struct BinLanes {
  static constexpr int kLanes = 16;
  using Mask = __mmask16;
  using Vector = __m512;
  using Integers = __m512i;
  static Mask Tail(int64_t left) { return static_cast<Mask>((1u << left) - 1); }
  static Vector Load(const float* p) { return _mm512_loadu_ps(p); }
  static Vector Load(const float* p, Mask m) { return _mm512_maskz_loadu_ps(m, p); }
  static void Store(float* p, Vector v) { _mm512_storeu_ps(p, v); }
  static void Store(float* p, Mask m, Vector v) { _mm512_mask_storeu_ps(p, m, v); }
  static Vector Set(float x) { return _mm512_set1_ps(x); }
  static Vector Add(Vector a, Vector b) { return _mm512_add_ps(a, b); }
  static Vector Fma(Vector a, Vector b, Vector c) { return _mm512_fmadd_ps(a, b, c); }
  static Integers Zero() { return _mm512_setzero_si512(); }
  static Integers Magnitude(Vector v) {
    return _mm512_and_epi32(_mm512_castps_si512(v), _mm512_set1_epi32(0x7FFFFFFF));
  }
  static Integers Max(Integers a, Integers b) { return _mm512_max_epu32(a, b); }
  static uint32_t Highest(Integers a) { return _mm512_reduce_max_epu32(a); }
  static Integers SetBits(uint32_t x) { return _mm512_set1_epi32(static_cast<int>(x)); }
  // Lanes whose |h| is at least `least` and whose g is not 0.
  static uint32_t Selected(Vector g, Vector h, Integers least) {
    return _mm512_mask_test_epi32_mask(_mm512_cmpge_epu32_mask(Magnitude(h), least),
                                       _mm512_castps_si512(g), _mm512_set1_epi32(0x7FFFFFFF));
  }
  static uint32_t Negative(Vector v) { return _mm512_movepi32_mask(_mm512_castps_si512(v)); }
};

#elif defined(__AVX2__)

struct BinLanes {
  static constexpr int kLanes = 8;
  using Mask = __m256i;
  using Vector = __m256;
  using Integers = __m256i;
  static Mask Tail(int64_t left) {
    const __m256i lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(left)), lanes);
  }
  static Vector Load(const float* p) { return _mm256_loadu_ps(p); }
  static Vector Load(const float* p, Mask m) { return _mm256_maskload_ps(p, m); }
  static void Store(float* p, Vector v) { _mm256_storeu_ps(p, v); }
  static void Store(float* p, Mask m, Vector v) { _mm256_maskstore_ps(p, m, v); }
  static Vector Set(float x) { return _mm256_set1_ps(x); }
  static Vector Add(Vector a, Vector b) { return _mm256_add_ps(a, b); }
  static Vector Fma(Vector a, Vector b, Vector c) { return _mm256_fmadd_ps(a, b, c); }
  static Integers Zero() { return _mm256_setzero_si256(); }
  static Integers Magnitude(Vector v) {
    return _mm256_and_si256(_mm256_castps_si256(v), _mm256_set1_epi32(0x7FFFFFFF));
  }
  static Integers Max(Integers a, Integers b) { return _mm256_max_epu32(a, b); }
  static uint32_t Highest(Integers a) {
    __m128i m = _mm_max_epu32(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1));
    m = _mm_max_epu32(m, _mm_shuffle_epi32(m, 0x4E));
    m = _mm_max_epu32(m, _mm_shuffle_epi32(m, 0xB1));
    return static_cast<uint32_t>(_mm_cvtsi128_si32(m));
  }
  static Integers SetBits(uint32_t x) { return _mm256_set1_epi32(static_cast<int>(x)); }
  static uint32_t Selected(Vector g, Vector h, Integers least) {
    // Magnitudes are below 2^31: signed comparisons serve.
    const __m256i below = _mm256_cmpgt_epi32(least, Magnitude(h));
    const __m256i nonzero = _mm256_cmpgt_epi32(Magnitude(g), _mm256_setzero_si256());
    return static_cast<uint32_t>(
        _mm256_movemask_ps(_mm256_castsi256_ps(_mm256_andnot_si256(below, nonzero))));
  }
  static uint32_t Negative(Vector v) { return static_cast<uint32_t>(_mm256_movemask_ps(v)); }
};

#endif

// The magnitude of the greatest G of a bin, as bits, with G written to `g`.
inline uint32_t AccumulateBin(const float* dw, const float* residue, float* g, int64_t n) {
#if defined(__AVX2__)
  using L = BinLanes;
  L::Integers high = L::Zero();
  int64_t i = 0;
  for (; i + L::kLanes <= n; i += L::kLanes) {
    const L::Vector sum = L::Add(L::Load(residue + i), L::Load(dw + i));
    L::Store(g + i, sum);
    high = L::Max(high, L::Magnitude(sum));
  }
  if (i < n) {
    const L::Mask tail = L::Tail(n - i);
    const L::Vector sum = L::Add(L::Load(residue + i, tail), L::Load(dw + i, tail));
    L::Store(g + i, tail, sum);
    high = L::Max(high, L::Magnitude(sum));
  }
  return L::Highest(high);
#else
  uint32_t high = 0;
  for (int64_t i = 0; i < n; ++i) {
    g[i] = residue[i] + dw[i];
    const uint32_t magnitude = MagnitudeBits(g[i]);
    high = high < magnitude ? magnitude : high;
  }
  return high;
#endif
}

// Appends the elements of a bin that are sent; returns how many.
template <bool kTwice>
inline int SelectBin(const float* dw, const float* residue, const float* g, int64_t n,
                     uint32_t highest, float soft_threshold, uint16_t* elements) {
  uint16_t* out = elements;
#if defined(__AVX2__)
  using L = BinLanes;
  const L::Integers least = L::SetBits(highest);
  const L::Vector factor = L::Set(soft_threshold);
  const auto append = [&](int64_t i, L::Vector sum, L::Vector d, L::Vector r) {
    const L::Vector h = kTwice ? L::Add(sum, d) : L::Fma(factor, d, r);
    uint32_t selected = L::Selected(sum, h, least);
    if (selected == 0) return;
    const uint32_t negative = L::Negative(sum);
    do {
      const int lane = __builtin_ctz(selected);
      *out++ = static_cast<uint16_t>((i + lane) | (negative >> lane & 1) << kSignShift);
      selected &= selected - 1;
    } while (selected != 0);
  };
  int64_t i = 0;
  for (; i + L::kLanes <= n; i += L::kLanes) {
    append(i, L::Load(g + i), L::Load(dw + i), kTwice ? L::Set(0) : L::Load(residue + i));
  }
  if (i < n) {
    const L::Mask tail = L::Tail(n - i);
    append(i, L::Load(g + i, tail), L::Load(dw + i, tail),
           kTwice ? L::Set(0) : L::Load(residue + i, tail));
  }
#else
  for (int64_t i = 0; i < n; ++i) {
    if (IsSent(g[i], LookAhead<kTwice>(g[i], dw[i], residue[i], soft_threshold), highest)) {
      *out++ = static_cast<uint16_t>(i | (std::signbit(g[i]) ? 1 << kSignShift : 0));
    }
  }
#endif
  return static_cast<int>(out - elements);
}

template <bool kTwice>
inline int64_t SelectBins(const AdaCompTask& task, int64_t first_bin, int64_t begin, int64_t end,
                          AdaCompSegment* segment, float* maxima) {
  for (int64_t bin = begin; bin < end; ++bin) {
    const int64_t at = (first_bin + bin) * task.bin_size;
    const int64_t left = task.num_elements - at;
    const int64_t n = left < task.bin_size ? left : task.bin_size;
    if (segment->size + n > segment->capacity) return bin;
    const float* dw = task.gradient + at;
    const float* residue = task.residue + at;
    float* g = task.new_residue + at;
    const uint32_t highest = AccumulateBin(dw, residue, g, n);
    if (!IsFiniteMagnitude(highest)) {
      segment->finite = false;
      return bin;
    }
    memcpy(&maxima[first_bin + bin], &highest, sizeof(highest));
    int count = 0;
    if (highest != 0) {
      count = SelectBin<kTwice>(dw, residue, g, n, highest, task.soft_threshold,
                                segment->elements + segment->size);
    }
    segment->counts[bin] = static_cast<uint16_t>(count);
    segment->size += count;
  }
  return end;
}

inline int64_t AdaCompSelect(const AdaCompTask& task, int64_t first_bin, int64_t begin, int64_t end,
                             AdaCompSegment* segment, float* maxima) {
  const auto select = task.soft_threshold == 2.0f ? SelectBins<true> : SelectBins<false>;
  return select(task, first_bin, begin, end, segment, maxima);
}

inline void AdaCompMeasure(const AdaCompTask& task, AdaCompSegment* segment) {
  const Selection selection = {segment->counts, segment->num_bins, segment->elements,
                               task.bin_size};
  segment->entry = MeasureSegment(selection, task.entropy);
}

LOWPREC_END_NAMESPACE

#endif  // TF_LOWPREC_CC_KERNELS_ADACOMP_LOOPS_H_
