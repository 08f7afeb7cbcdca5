// Entropy-coded segments of packets: Rice codes of the gaps between elements (docs/adacomp.md).
#ifndef TF_LOWPREC_CC_NUMERICS_ADACOMP_RICE_H_
#define TF_LOWPREC_CC_NUMERICS_ADACOMP_RICE_H_

#include <cstdint>

#include "cc/numerics/adacomp_packet.h"
#include "cc/numerics/adacomp_selection.h"
#include "cc/numerics/macros.h"

LOWPREC_BEGIN_NAMESPACE

// The Rice parameter k with the fewest bits, the smallest of equals, and that number of bits: the
// sum of (gap >> k) + k + 2.
struct RiceCost {
  int rice_bits;
  int64_t bits;
};

// shifted[k]: the sum of gap >> k over `count` gaps.
LOWPREC_HD RiceCost CheapestRice(const uint32_t* shifted, int64_t count) {
  RiceCost best = {0, 0};
  for (int k = 0; k <= kMaxRiceBits; ++k) {
    const int64_t bits = shifted[k] + count * (k + 2);
    if (k == 0 || bits < best.bits) best = {k, bits};
  }
  return best;
}

inline RiceCost CheapestRice(const Selection& s) {
  uint32_t partial[kMaxRiceBits + 1] = {};  // gaps add up to less than 2^17
  int64_t previous = -1, count = 0;
  ForEachSelected(s, [&](int64_t position, uint32_t) {
    const uint32_t gap = static_cast<uint32_t>(position - previous - 1);
    for (int k = 0; k <= kMaxRiceBits; ++k) partial[k] += gap >> k;
    previous = position;
    ++count;
  });
  return CheapestRice(partial, count);
}

class BitWriter {
 public:
  explicit BitWriter(uint32_t* words) : words_(words) {}
  void Put(uint64_t value, int count) {  // count <= 32, value < 2^count
    pending_ |= value << held_;
    held_ += count;
    if (held_ >= 32) Flush();
  }
  void PutZeros(int64_t count) {
    for (; count >= 32; count -= 32) Put(0, 32);
    Put(0, static_cast<int>(count));
  }
  void Finish() {
    if (held_ > 0) Flush();
  }

 private:
  void Flush() {
    *words_++ = static_cast<uint32_t>(pending_);
    pending_ >>= 32;
    held_ -= 32;
  }
  uint32_t* words_;
  uint64_t pending_ = 0;
  int held_ = 0;
};

// Each element: gap >> k zeros, a one, the sign, the low k bits of the gap; low bits first.
inline void WriteEntropy(const Selection& s, int rice_bits, uint32_t* words) {
  BitWriter writer(words);
  const int length = rice_bits + 2;
  const uint32_t low = (1u << rice_bits) - 1;
  int64_t previous = -1;
  ForEachSelected(s, [&](int64_t position, uint32_t sign) {
    const uint32_t gap = static_cast<uint32_t>(position - previous - 1);
    const uint64_t tail = 1 | sign >> 30 | static_cast<uint64_t>(gap & low) << 2;
    const int zeros = static_cast<int>(gap >> rice_bits);
    if (zeros + length <= 32) {
      writer.Put(tail << zeros, zeros + length);
    } else {
      writer.PutZeros(zeros);
      writer.Put(tail, length);
    }
    previous = position;
  });
  writer.Finish();
}

LOWPREC_HD int TrailingZeros(uint64_t x) {  // x is not 0
#if defined(__CUDA_ARCH__)
  return __ffsll(static_cast<long long>(x)) - 1;
#else
  return __builtin_ctzll(x);
#endif
}

// visit(position, sign bit as bit 31) for each element of a segment. Returns their number, or -1 if
// some code makes no sense; positions in the segment only are visited.
template <typename Visit>
LOWPREC_HD_INLINE int64_t WalkEntropy(const uint32_t* words, int64_t num_words, int rice_bits,
                                      int64_t num_elements, Visit visit) {
  const uint32_t* const end = words + num_words;
  const uint64_t low = (uint64_t{1} << rice_bits) - 1;
  uint64_t window = 0;
  int held = 0;
  int64_t position = -1, sent = 0;
  for (;;) {
    int64_t zeros = 0;
    for (;;) {
      if (held <= 32 && words != end) {
        window |= static_cast<uint64_t>(*words++) << held;
        held += 32;
      }
      if (window != 0) break;
      zeros += held;
      held = 0;
      if (words == end) return zeros < 32 ? sent : -1;  // what fills the last word
    }
    const int run = TrailingZeros(window);
    zeros += run;
    window >>= run;
    held -= run;
    if (held <= 32 && words != end) {
      window |= static_cast<uint64_t>(*words++) << held;
      held += 32;
    }
    if (held < rice_bits + 2) return -1;
    const uint32_t sign = static_cast<uint32_t>(window & 2) << 30;
    position += 1 + (zeros << rice_bits | static_cast<int64_t>(window >> 2 & low));
    window >>= rice_bits + 2;
    held -= rice_bits + 2;
    if (position >= num_elements) return -1;
    visit(position, sign);
    ++sent;
  }
}

LOWPREC_END_NAMESPACE

#endif  // TF_LOWPREC_CC_NUMERICS_ADACOMP_RICE_H_
