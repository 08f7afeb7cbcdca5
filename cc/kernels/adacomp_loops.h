// The codec's loops, compiled once per instruction set (adacomp_portable.cc, …avx2, …avx512).
#ifndef TF_LOWPREC_CC_KERNELS_ADACOMP_LOOPS_H_
#define TF_LOWPREC_CC_KERNELS_ADACOMP_LOOPS_H_

#if defined(__AVX2__)
#include <immintrin.h>
#endif

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "cc/kernels/adacomp.h"
#include "cc/numerics/adacomp_codes.h"
#include "cc/numerics/adacomp_packet.h"
#include "cc/numerics/adacomp_select.h"
#include "cc/numerics/adacomp_selection.h"

LOWPREC_BEGIN_NAMESPACE

#if defined(__AVX512F__)

struct BinLanes {
  static constexpr int kLanes = 16;
  using Vector = __m512;
  using Integers = __m512i;
  static Vector Load(const float* p) { return _mm512_loadu_ps(p); }
  static void Store(float* p, Vector v) { _mm512_storeu_ps(p, v); }
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
  // Lanes whose magnitude is above `bound`, as bits.
  static uint64_t Above(Vector v, Integers bound) {
    return _mm512_cmpgt_epu32_mask(Magnitude(v), bound);
  }
  // The same of 64 elements: of the vectors at(0), at(16) and so on.
  template <typename At>
  static uint64_t AboveOf64(At at, Integers bound) {
    return Above(at(0), bound) | Above(at(16), bound) << 16 | Above(at(32), bound) << 32 |
           Above(at(48), bound) << 48;
  }
};

#elif defined(__AVX2__)

struct BinLanes {
  static constexpr int kLanes = 8;
  using Vector = __m256;
  using Integers = __m256i;
  static Vector Load(const float* p) { return _mm256_loadu_ps(p); }
  static void Store(float* p, Vector v) { _mm256_storeu_ps(p, v); }
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
  // Lanes whose magnitude is above `bound`, as bits.
  static uint64_t Above(Vector v, Integers bound) {
    return static_cast<uint32_t>(_mm256_movemask_ps(_mm256_castsi256_ps(IsAbove(v, bound))));
  }
  // The same of 64 elements: of the vectors at(0), at(8) and so on.
  template <typename At>
  static uint64_t AboveOf64(At at, Integers bound) {
    return AboveOf32(at, 0, bound) | static_cast<uint64_t>(AboveOf32(at, 32, bound)) << 32;
  }

 private:
  // Magnitudes are below 2^31: signed comparisons serve.
  static Integers IsAbove(Vector v, Integers bound) {
    return _mm256_cmpgt_epi32(Magnitude(v), bound);
  }
  template <typename At>
  static uint32_t AboveOf32(At at, int64_t i, Integers bound) {
    const auto pair = [&](int64_t k) {
      return _mm256_packs_epi32(IsAbove(at(k), bound), IsAbove(at(k + 8), bound));
    };
    const __m256i four = _mm256_packs_epi16(pair(i), pair(i + 16));
    const __m256i in_order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    return static_cast<uint32_t>(_mm256_movemask_epi8(_mm256_permutevar8x32_epi32(four, in_order)));
  }
};

#endif

constexpr int64_t kLine = 64 / sizeof(float);

// Elements are compared while memory is idle, and waited for when the next bin is accumulated.
inline void AskForNextBins(const float* dw, const float* residue) {
  constexpr int64_t kAhead = 512;
  __builtin_prefetch(dw + kAhead);
  __builtin_prefetch(residue + kAhead);
}

// Of n <= 64 elements from `begin` on, those whose |H| is at least `highest`, as bits.
template <bool kTwice>
inline uint64_t Reaching(const float* dw, const float* residue, const float* g, int64_t begin,
                         int64_t n, uint32_t highest, float soft_threshold) {
  uint64_t reaching = 0;
#if defined(__AVX2__)
  using L = BinLanes;
  if (begin + n >= L::kLanes) {
    const L::Integers bound = L::SetBits(highest - 1);  // it is above 0
    const L::Vector factor = L::Set(soft_threshold);
    const auto look_ahead = [&](int64_t i) {
      const L::Vector d = L::Load(dw + begin + i);
      return kTwice ? L::Add(L::Load(g + begin + i), d)
                    : L::Fma(factor, d, L::Load(residue + begin + i));
    };
    if (n == 64) {
      for (int64_t i = begin; i < begin + n; i += kLine) AskForNextBins(dw + i, residue + i);
      return L::AboveOf64(look_ahead, bound);
    }
    int64_t i = 0;
    for (; i + L::kLanes <= n; i += L::kLanes) reaching |= L::Above(look_ahead(i), bound) << i;
    if (i < n) {
      const int64_t last = n - L::kLanes;
      const uint64_t bits = L::Above(look_ahead(last), bound);
      reaching |= last < 0 ? bits >> -last : bits << last;
    }
    return reaching;
  }
#endif
  for (int64_t i = 0; i < n; ++i) {
    const int64_t at = begin + i;
    const float h = LookAhead<kTwice>(g[at], dw[at], residue[at], soft_threshold);
    reaching |= static_cast<uint64_t>(MagnitudeBits(h) >= highest) << i;
  }
  return reaching;
}

// Appends the codes of those of n <= 64 elements, from `begin` on, whose bits are set and whose G
// is not 0; returns their end. Writes up to three codes more.
inline uint16_t* AppendCodes(uint64_t reaching, const float* g, int64_t begin, int64_t n,
                             uint16_t* codes) {
  uint16_t* const end = codes + __builtin_popcountll(reaching);
  uint32_t least = ~0u;  // of their |G|, doubled
  // By fours, since how many there are cannot be foreseen.
  uint16_t* out = codes;
  for (uint64_t left = reaching; left != 0; out += 4) {
    for (int i = 0; i < 4; ++i) {
      const int64_t at = begin + __builtin_ctzll(left | uint64_t{1} << (n - 1));
      uint32_t bits;
      memcpy(&bits, &g[at], sizeof(bits));
      least = least < 2 * bits ? least : 2 * bits;
      out[i] = static_cast<uint16_t>(at | (bits >> 17 & kSelectedSign));
      left &= left - 1;
    }
  }
  if (least != 0) return end;
  // Rare: a gradient larger than any |G| has met its opposite in the residue.
  out = codes;
  for (uint16_t* code = codes; code < end; ++code) {
    *out = *code;
    out += MagnitudeBits(g[*code & kSelectedIndex]) != 0;
  }
  return out;
}

// A bin of any size.
struct AnyBin {
  // The magnitude of the greatest G, as bits, with G written to `g`.
  uint32_t Accumulate(const float* dw, const float* residue, float* g, int64_t n) const {
#if defined(__AVX2__)
    using L = BinLanes;
    if (n >= L::kLanes) {
      L::Integers high = L::Zero();
      const auto accumulate = [&](int64_t i) {
        const L::Vector sum = L::Add(L::Load(residue + i), L::Load(dw + i));
        L::Store(g + i, sum);
        high = L::Max(high, L::Magnitude(sum));
      };
      int64_t i = 0;
      for (; i + L::kLanes <= n; i += L::kLanes) accumulate(i);
      if (i < n) accumulate(n - L::kLanes);  // some again: masked stores are slow
      return L::Highest(high);
    }
#endif
    uint32_t high = 0;
    for (int64_t i = 0; i < n; ++i) {
      g[i] = residue[i] + dw[i];
      const uint32_t magnitude = MagnitudeBits(g[i]);
      high = high < magnitude ? magnitude : high;
    }
    return high;
  }
  // Appends the codes of the elements that are sent; returns their end.
  template <bool kTwice>
  uint16_t* Append(const float* dw, const float* residue, const float* g, int64_t n,
                   uint32_t highest, float soft_threshold, uint16_t* codes) const {
    for (int64_t block = 0; block < n; block += 64) {
      const int64_t count = n - block < 64 ? n - block : 64;
      const uint64_t reaching =
          Reaching<kTwice>(dw, residue, g, block, count, highest, soft_threshold);
      codes = AppendCodes(reaching, g, block, count, codes);
    }
    return codes;
  }
};

#if defined(__AVX2__)

// A bin of kVectors vectors, the last of which may have elements of the one before again; its G
// stay in registers.
template <int kVectors>
class SmallBin {
 public:
  uint32_t Accumulate(const float* dw, const float* residue, float* g, int64_t n) {
    L::Integers high = L::Zero();
    for (int k = 0; k < kVectors; ++k) {
      const int64_t i = Begin(k, n);
      g_[k] = L::Add(L::Load(residue + i), L::Load(dw + i));
      L::Store(g + i, g_[k]);
      high = L::Max(high, L::Magnitude(g_[k]));
    }
    return L::Highest(high);
  }
  template <bool kTwice>
  uint16_t* Append(const float* dw, const float* residue, const float* g, int64_t n,
                   uint32_t highest, float soft_threshold, uint16_t* codes) const {
    const L::Integers bound = L::SetBits(highest - 1);
    const L::Vector factor = L::Set(soft_threshold);
    uint64_t reaching = 0;
    for (int k = 0; k < kVectors; ++k) {
      const int64_t i = Begin(k, n);
      if (k * L::kLanes % kLine == 0) AskForNextBins(dw + i, residue + i);
      const L::Vector d = L::Load(dw + i);
      const L::Vector h = kTwice ? L::Add(g_[k], d) : L::Fma(factor, d, L::Load(residue + i));
      reaching |= L::Above(h, bound) << i;
    }
    return AppendCodes(reaching, g, 0, n, codes);
  }

 private:
  using L = BinLanes;
  static int64_t Begin(int k, int64_t n) {
    return k < kVectors - 1 ? k * L::kLanes : n - L::kLanes;
  }

  L::Vector g_[kVectors];
};

#endif

// One bin, of n elements from `at` on; false if it is not finite.
template <bool kTwice, typename Bin>
inline bool SelectBin(const AdaCompTask& task, int64_t at, int64_t n, AdaCompSegment* segment,
                      float* maximum) {
  const float* dw = task.gradient + at;
  const float* residue = task.residue + at;
  float* g = task.new_residue + at;
  Bin bin;
  const uint32_t highest = bin.Accumulate(dw, residue, g, n);
  if (!IsFiniteMagnitude(highest)) return false;
  memcpy(maximum, &highest, sizeof(highest));
  uint16_t* const codes = segment->codes + segment->size;
  uint16_t* stop = codes;
  if (highest != 0) {
    stop = bin.template Append<kTwice>(dw, residue, g, n, highest, task.soft_threshold, codes);
  }
  *codes = stop == codes ? 0 : *codes | kSelectedFirst;
  segment->size += stop == codes ? 1 : stop - codes;
  segment->num_empty += stop == codes;
  return true;
}

template <bool kTwice, typename Bin>
inline int64_t SelectBins(const AdaCompTask& task, int64_t first_bin, int64_t begin, int64_t end,
                          AdaCompSegment* segment, float* maxima) {
  for (int64_t bin = begin; bin < end; ++bin) {
    const int64_t at = (first_bin + bin) * task.bin_size;
    const int64_t left = task.num_elements - at;
    const int64_t n = left < task.bin_size ? left : task.bin_size;
    if (segment->size + AdaCompRoom(n) > segment->capacity) return bin;
    float* const maximum = &maxima[first_bin + bin];
    const bool finite = n == task.bin_size
                            ? SelectBin<kTwice, Bin>(task, at, n, segment, maximum)
                            : SelectBin<kTwice, AnyBin>(task, at, n, segment, maximum);
    if (!finite) {
      segment->finite = false;
      return bin;
    }
  }
  return end;
}

template <bool kTwice, int kVectors = 1>
inline AdaCompSelectFn ChooseSelectBins(int bin_size) {
#if defined(__AVX2__)
  constexpr int kLanes = BinLanes::kLanes;
  if constexpr (kVectors * kLanes <= 64) {
    if (bin_size >= kLanes && bin_size <= kVectors * kLanes) {
      return SelectBins<kTwice, SmallBin<kVectors>>;
    }
    return ChooseSelectBins<kTwice, kVectors + 1>(bin_size);
  }
#endif
  return SelectBins<kTwice, AnyBin>;
}

inline int64_t AdaCompSelect(const AdaCompTask& task, int64_t first_bin, int64_t begin, int64_t end,
                             AdaCompSegment* segment, float* maxima) {
  const auto select = task.soft_threshold == 2.0f ? ChooseSelectBins<true>(task.bin_size)
                                                  : ChooseSelectBins<false>(task.bin_size);
  return select(task, first_bin, begin, end, segment, maxima);
}

inline Selection SelectionOf(const AdaCompTask& task, const AdaCompSegment& segment) {
  return {segment.codes, segment.size, segment.num_empty, task.bin_size};
}

inline void AdaCompMeasure(const AdaCompTask& task, AdaCompSegment* segment) {
  segment->entry = MeasureSegment(SelectionOf(task, *segment), task.entropy);
}

// Takes what is sent out of a residue. The elements lie at random, which the processor does not
// foresee: each is asked of memory when it is named, and changed kWaiting elements later, or at the
// end.
class SentElements {
 public:
  explicit SentElements(float scale) : scale_(scale) { std::fill_n(waiting_, kWaiting, &none_); }
  SentElements(const SentElements&) = delete;
  SentElements& operator=(const SentElements&) = delete;
  ~SentElements() {
    for (float* element : waiting_) Change(element);
  }

  void TakeOut(float* element) {
    __builtin_prefetch(element, 1);
    float** const place = &waiting_[count_++ % kWaiting];
    Change(*place);
    *place = element;
  }

 private:
  static constexpr uint64_t kWaiting = 64;

  void Change(float* element) const { *element = ResidueOfSent(*element, scale_); }

  const float scale_;
  float none_ = 0;  // in the places that still are free
  float* waiting_[kWaiting];
  uint64_t count_ = 0;
};

inline void AdaCompWrite(const AdaCompTask& task, const AdaCompSegment& segment, float scale,
                         uint32_t* words, float* new_residue) {
  SentElements sent(scale);
  WriteSegment(SelectionOf(task, segment), task.entropy, segment.entry, words,
               [&sent, new_residue](int64_t i) { sent.TakeOut(new_residue + i); });
}

inline PacketHeader HeaderOf(const AdaCompCoded& coded) {
  PacketHeader header;
  header.entropy = coded.entropy;
  header.bin_size = coded.bin_size;
  header.scale = coded.scale;
  return header;
}

inline int64_t AdaCompCheck(const AdaCompCoded& coded) {
  return CheckSegment(HeaderOf(coded), coded.entry, coded.words, coded.num_elements);
}

inline void AdaCompAdd(const AdaCompCoded& coded, bool first, float* y) {
  if (first) std::fill_n(y, coded.num_elements, 0.0f);
  AddSegment(HeaderOf(coded), coded.entry, coded.words, coded.num_elements, y);
}

// In lanes, if no order of the additions rounds: then all sums are multiples of the least maximum's
// unit in the last place, and below 2^53 of them.
inline double AdaCompSum(const float* maxima, int64_t n) {
  constexpr int kLanes = 16;
  uint32_t least[kLanes], most[kLanes] = {};
  std::fill_n(least, kLanes, ~0u);
  double lanes[kLanes] = {};
  const auto add = [&](int lane, float maximum) {
    uint32_t bits;
    memcpy(&bits, &maximum, sizeof(bits));
    least[lane] = std::min(least[lane], bits - 1);  // 0 becomes the greatest
    most[lane] = std::max(most[lane], bits);
    lanes[lane] += maximum;
  };
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    for (int k = 0; k < kLanes; ++k) add(k, maxima[i + k]);
  }
  for (; i < n; ++i) add(0, maxima[i]);
  const int unit = static_cast<int>((*std::min_element(least, least + kLanes) + 1) >> 23);
  const int top = static_cast<int>(*std::max_element(most, most + kLanes) >> 23);
  double sum = 0;
  if (CeilLog2(n) + top + 1 - std::max(unit, 1) <= 53 - 23) {
    for (const double lane : lanes) sum += lane;
  } else {
    for (i = 0; i < n; ++i) sum += maxima[i];
  }
  return sum;
}

constexpr AdaCompLoops kAdaCompLoops = {AdaCompSelect, AdaCompMeasure, AdaCompSum,    AdaCompWrite,
                                        AdaCompCheck,  AdaCompAdd,     PacketChecksum};

LOWPREC_END_NAMESPACE

#endif  // TF_LOWPREC_CC_KERNELS_ADACOMP_LOOPS_H_
