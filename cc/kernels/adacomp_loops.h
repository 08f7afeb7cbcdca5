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
  // Appends the codes of the selected lanes, of 16 from `index` on; writes up to 16 codes.
  static uint16_t* Append(uint32_t selected, Vector g, int64_t index, uint16_t* codes) {
    const __m512i lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    const __m512i at = _mm512_add_epi32(lanes, _mm512_set1_epi32(static_cast<int>(index)));
    const __m512i sign = _mm512_slli_epi32(_mm512_srli_epi32(_mm512_castps_si512(g), 31), 14);
    const __m512i code =
        _mm512_maskz_compress_epi32(static_cast<Mask>(selected), _mm512_or_epi32(at, sign));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(codes), _mm512_cvtepi32_epi16(code));
    return codes + __builtin_popcount(selected);
  }
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

// Appends the codes of the elements whose bits are set, of 64 from `index` on; returns their end.
// Writes up to three codes more.
inline uint16_t* AppendCodes(uint64_t selected, uint64_t negative, int64_t index, uint16_t* codes) {
  uint16_t* const end = codes + __builtin_popcountll(selected);
  // By fours, since how many there are cannot be foreseen.
  for (; selected != 0; codes += 4) {
    for (int i = 0; i < 4; ++i) {
      const int at = __builtin_ctzll(selected | uint64_t{1} << 63);
      codes[i] = static_cast<uint16_t>((index + at) | (negative >> at & 1) << 14);
      selected &= selected - 1;
    }
  }
  return end;
}

// Appends the codes of a bin's elements that are sent, or a 0; returns their end.
template <bool kTwice>
inline uint16_t* SelectBin(const float* dw, const float* residue, const float* g, int64_t n,
                           uint32_t highest, float soft_threshold, uint16_t* codes) {
  uint16_t* out = codes;
#if defined(__AVX2__)
  using L = BinLanes;
  const L::Integers least = L::SetBits(highest);
  const L::Vector factor = L::Set(soft_threshold);
  const auto compare = [&](L::Vector sum, L::Vector d, L::Vector r) {
    return L::Selected(sum, kTwice ? L::Add(sum, d) : L::Fma(factor, d, r), least);
  };
#endif
#if defined(__AVX512F__)
  int64_t i = 0;
  for (; i + L::kLanes <= n; i += L::kLanes) {
    const L::Vector sum = L::Load(g + i);
    const L::Vector r = kTwice ? sum : L::Load(residue + i);
    out = L::Append(compare(sum, L::Load(dw + i), r), sum, i, out);
  }
  if (i < n) {
    const L::Mask tail = L::Tail(n - i);
    const L::Vector sum = L::Load(g + i, tail);
    const L::Vector r = kTwice ? sum : L::Load(residue + i, tail);
    out = L::Append(compare(sum, L::Load(dw + i, tail), r), sum, i, out);
  }
#elif defined(__AVX2__)
  for (int64_t block = 0; block < n; block += 64) {
    const int64_t end = n - block < 64 ? n : block + 64;
    uint64_t selected = 0, negative = 0;
    const auto mark = [&](int64_t i, L::Vector sum, L::Vector d, L::Vector r) {
      selected |= static_cast<uint64_t>(compare(sum, d, r)) << (i - block);
      negative |= static_cast<uint64_t>(L::Negative(sum)) << (i - block);
    };
    int64_t i = block;
    for (; i + L::kLanes <= end; i += L::kLanes) {
      const L::Vector sum = L::Load(g + i);
      mark(i, sum, L::Load(dw + i), kTwice ? sum : L::Load(residue + i));
    }
    if (i < end) {
      const L::Mask tail = L::Tail(end - i);
      const L::Vector sum = L::Load(g + i, tail);
      mark(i, sum, L::Load(dw + i, tail), kTwice ? sum : L::Load(residue + i, tail));
    }
    out = AppendCodes(selected, negative, block, out);
  }
#else
  for (int64_t block = 0; block < n; block += 64) {
    const int count = static_cast<int>(n - block < 64 ? n - block : 64);
    uint64_t selected = 0, negative = 0;
    for (int i = 0; i < count; ++i) {
      const int64_t at = block + i;
      if (IsSent(g[at], LookAhead<kTwice>(g[at], dw[at], residue[at], soft_threshold), highest)) {
        selected |= uint64_t{1} << i;
        negative |= static_cast<uint64_t>(std::signbit(g[at])) << i;
      }
    }
    out = AppendCodes(selected, negative, block, out);
  }
#endif
  *codes = out == codes ? 0 : *codes | kSelectedFirst;
  return out == codes ? out + 1 : out;
}

template <bool kTwice>
inline int64_t SelectBins(const AdaCompTask& task, int64_t first_bin, int64_t begin, int64_t end,
                          AdaCompSegment* segment, float* maxima) {
  for (int64_t bin = begin; bin < end; ++bin) {
    const int64_t at = (first_bin + bin) * task.bin_size;
    const int64_t left = task.num_elements - at;
    const int64_t n = left < task.bin_size ? left : task.bin_size;
    if (segment->size + AdaCompRoom(n) > segment->capacity) return bin;
    const float* dw = task.gradient + at;
    const float* residue = task.residue + at;
    float* g = task.new_residue + at;
    const uint32_t highest = AccumulateBin(dw, residue, g, n);
    if (!IsFiniteMagnitude(highest)) {
      segment->finite = false;
      return bin;
    }
    memcpy(&maxima[first_bin + bin], &highest, sizeof(highest));
    uint16_t* codes = segment->codes + segment->size;
    uint16_t* stop = codes + 1;
    if (highest == 0) {
      *codes = 0;
    } else {
      stop = SelectBin<kTwice>(dw, residue, g, n, highest, task.soft_threshold, codes);
    }
    segment->size += stop - codes;
    segment->num_empty += *codes == 0;
  }
  return end;
}

inline int64_t AdaCompSelect(const AdaCompTask& task, int64_t first_bin, int64_t begin, int64_t end,
                             AdaCompSegment* segment, float* maxima) {
  const auto select = task.soft_threshold == 2.0f ? SelectBins<true> : SelectBins<false>;
  return select(task, first_bin, begin, end, segment, maxima);
}

inline void AdaCompMeasure(const AdaCompTask& task, AdaCompSegment* segment) {
  const Selection selection = {segment->codes, segment->size, segment->num_empty, task.bin_size};
  segment->entry = MeasureSegment(selection, task.entropy);
}

LOWPREC_END_NAMESPACE

#endif  // TF_LOWPREC_CC_KERNELS_ADACOMP_LOOPS_H_
