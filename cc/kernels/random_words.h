// Philox words of consecutive elements, in bulk: the same numbers as RandomWord of
// cc/numerics/philox.h, 8 (AVX-512) or 4 (AVX2) blocks to a register.
//
// A block's four counter words sit in four registers of 64-bit lanes. A 32 x 32 -> 64 bit multiply
// reads the low half of each lane only, so high and low halves of the products need no shuffle, and
// what is left in the upper halves does no harm: 6 instructions (AVX2: 8) per round.
#ifndef TF_LOWPREC_CC_KERNELS_RANDOM_WORDS_H_
#define TF_LOWPREC_CC_KERNELS_RANDOM_WORDS_H_

#if defined(__AVX2__)
#include <immintrin.h>
#endif

#include "cc/numerics/philox.h"

LOWPREC_BEGIN_NAMESPACE

#if defined(__AVX512F__)

struct PhiloxLanes {
  using Vector = __m512i;
  static constexpr int kBlocks = 8;
  static constexpr int kGroups = 4;  // in flight at a time, against the multiply's latency
  static Vector Set(uint32_t x) { return _mm512_set1_epi64(x); }
  static Vector Mul(Vector a, Vector b) { return _mm512_mul_epu32(a, b); }
  static Vector High(Vector a) { return _mm512_srli_epi64(a, 32); }
  static Vector Xor(Vector a, Vector b, Vector c) {
    return _mm512_ternarylogic_epi64(a, b, c, 0x96);
  }
  // Blocks first + 0, 4, 1, 5, ...: unpacking then yields them in order.
  static Vector Blocks(uint32_t first) {
    return _mm512_add_epi64(_mm512_set1_epi64(first), _mm512_setr_epi64(0, 4, 1, 5, 2, 6, 3, 7));
  }
  static void Store(Vector c0, Vector c1, Vector c2, Vector c3, uint32_t* words) {
    const Vector w01 = _mm512_mask_blend_epi32(0xAAAA, c0, _mm512_slli_epi64(c1, 32));
    const Vector w23 = _mm512_mask_blend_epi32(0xAAAA, c2, _mm512_slli_epi64(c3, 32));
    _mm512_storeu_si512(words, _mm512_unpacklo_epi64(w01, w23));
    _mm512_storeu_si512(words + 16, _mm512_unpackhi_epi64(w01, w23));
  }
};

#elif defined(__AVX2__)

struct PhiloxLanes {
  using Vector = __m256i;
  static constexpr int kBlocks = 4;
  static constexpr int kGroups = 2;
  static Vector Set(uint32_t x) { return _mm256_set1_epi64x(x); }
  static Vector Mul(Vector a, Vector b) { return _mm256_mul_epu32(a, b); }
  static Vector High(Vector a) { return _mm256_srli_epi64(a, 32); }
  static Vector Xor(Vector a, Vector b, Vector c) {
    return _mm256_xor_si256(_mm256_xor_si256(a, b), c);
  }
  static Vector Blocks(uint32_t first) {
    return _mm256_add_epi64(_mm256_set1_epi64x(first), _mm256_setr_epi64x(0, 2, 1, 3));
  }
  static void Store(Vector c0, Vector c1, Vector c2, Vector c3, uint32_t* words) {
    const Vector w01 = _mm256_blend_epi32(c0, _mm256_slli_epi64(c1, 32), 0xAA);
    const Vector w23 = _mm256_blend_epi32(c2, _mm256_slli_epi64(c3, 32), 0xAA);
    __m256i* out = reinterpret_cast<__m256i*>(words);
    _mm256_storeu_si256(out, _mm256_unpacklo_epi64(w01, w23));
    _mm256_storeu_si256(out + 1, _mm256_unpackhi_epi64(w01, w23));
  }
};

#endif

// words[i] = RandomWord(first + i) for i in [0, kWords). `first` is a multiple of kWords and kWords
// a power of two, so that the counter's upper half is one constant.
template <int kWords>
inline void RandomWords(uint64_t first, uint64_t stream, PhiloxKey key, uint32_t* words) {
  static_assert(kWords >= 128 && (kWords & (kWords - 1)) == 0, "whole groups of whole registers");
  const uint32_t low = static_cast<uint32_t>(first / 4);
  const uint32_t high = static_cast<uint32_t>((first / 4) >> 32);
  const uint32_t s0 = static_cast<uint32_t>(stream);
  const uint32_t s1 = static_cast<uint32_t>(stream >> 32);
#if defined(__AVX2__)
  using L = PhiloxLanes;
  using Vector = L::Vector;
  constexpr int kStep = L::kBlocks * L::kGroups;
  const Vector m0 = L::Set(0xD2511F53u), m1 = L::Set(0xCD9E8D57u);
  for (int block = 0; block < kWords / 4; block += kStep) {
    Vector c0[L::kGroups], c1[L::kGroups], c2[L::kGroups], c3[L::kGroups];
    for (int g = 0; g < L::kGroups; ++g) {
      c0[g] = L::Blocks(low + static_cast<uint32_t>(block + g * L::kBlocks));
      c1[g] = L::Set(high);
      c2[g] = L::Set(s0);
      c3[g] = L::Set(s1);
    }
    uint32_t k0 = key.k0, k1 = key.k1;
#pragma GCC unroll 10
    for (int round = 0; round < 10; ++round) {
      const Vector v0 = L::Set(k0), v1 = L::Set(k1);
#pragma GCC unroll 4
      for (int g = 0; g < L::kGroups; ++g) {
        const Vector p0 = L::Mul(c0[g], m0), p1 = L::Mul(c2[g], m1);
        c0[g] = L::Xor(L::High(p1), c1[g], v0);
        c2[g] = L::Xor(L::High(p0), c3[g], v1);
        c1[g] = p1;
        c3[g] = p0;
      }
      k0 += 0x9E3779B9u;
      k1 += 0xBB67AE85u;
    }
    for (int g = 0; g < L::kGroups; ++g) {
      L::Store(c0[g], c1[g], c2[g], c3[g], words + 4 * (block + g * L::kBlocks));
    }
  }
#else
  for (int block = 0; block < kWords / 4; ++block) {
    const PhiloxWords out = Philox(low + static_cast<uint32_t>(block), high, s0, s1, key);
    for (int i = 0; i < 4; ++i) words[4 * block + i] = out.w[i];
  }
#endif
}

LOWPREC_END_NAMESPACE

#endif  // TF_LOWPREC_CC_KERNELS_RANDOM_WORDS_H_
