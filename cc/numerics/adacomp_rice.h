// Entropy-coded segments of packets: Rice codes of the gaps between elements (docs/adacomp.md).
#ifndef TF_LOWPREC_CC_NUMERICS_ADACOMP_RICE_H_
#define TF_LOWPREC_CC_NUMERICS_ADACOMP_RICE_H_

#include <cstdint>
#include <cstring>

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

// Of the k from `first` to `last`. shifted[k]: the sum of gap >> k over `count` gaps.
LOWPREC_HD RiceCost CheapestRice(const uint32_t* shifted, int64_t count, int first = 0,
                                 int last = kMaxRiceBits) {
  RiceCost best = {first, 0};
  for (int k = first; k <= last; ++k) {
    const int64_t bits = shifted[k] + count * (k + 2);
    if (k == first || bits < best.bits) best = {k, bits};
  }
  return best;
}

// shifted[k] for kCount values of k from `first` on.
template <int kCount>
inline void SumShiftedGaps(const Selection& s, int first, uint32_t* shifted) {
  uint32_t sums[kCount] = {};  // gaps add up to less than 2^17
  int64_t previous = -1;
  ForEachSelected(s, [&](int64_t position, uint32_t) {
    const uint32_t gap = static_cast<uint32_t>(position - previous - 1) >> first;
    for (int i = 0; i < kCount; ++i) sums[i] += gap >> i;
    previous = position;
  });
  for (int i = 0; i < kCount; ++i) shifted[first + i] = sums[i];
}

inline RiceCost CheapestRice(const Selection& s) {
  const int64_t count = s.num_codes - s.num_empty;
  if (count == 0) return {0, 0};
  // A greater k costs a bit more for each gap and saves half of each gap >> k, rounded up. That
  // gets less as k grows, so that a k with more bits on either side is the best; and it is no more
  // than a bit a gap where 2^k is the mean gap or more. The best is seldom far below.
  constexpr int kTried = 4, kMostFirst = kMaxRiceBits + 1 - kTried;
  int64_t bins = s.num_empty;
  for (int64_t i = 0; i < s.num_codes; ++i) bins += s.codes[i] >> 15;
  int first = CeilLog2(bins * s.bin_size / count + 1) + 1 - kTried;
  if (first < 0) first = 0;
  if (first > kMostFirst) first = kMostFirst;
  uint32_t shifted[kMaxRiceBits + 1];
  SumShiftedGaps<kTried>(s, first, shifted);
  const RiceCost best = CheapestRice(shifted, count, first, first + kTried - 1);
  if (best.rice_bits > first || first == 0) return best;
  SumShiftedGaps<kMaxRiceBits + 1>(s, 0, shifted);
  return CheapestRice(shifted, count);
}

// Writes each word as often as bits are put into it: whether it is full cannot be foreseen.
class BitWriter {
 public:
  explicit BitWriter(uint32_t* words) : words_(words) {}
  // `zeros` zeros and the low `length` bits of `value`, which has no others; 1 <= zeros + length <=
  // 32.
  void Put(uint32_t zeros, uint64_t value, uint32_t length) {
    pending_ |= value << (held_ + zeros);
    held_ += zeros + length;
    *words_ = static_cast<uint32_t>(pending_);
    words_ += held_ >> 5;
    pending_ >>= held_ & 32;
    held_ &= 31;
  }
  void Finish() {
    if (held_ > 0) *words_ = static_cast<uint32_t>(pending_);
  }

 private:
  uint32_t* words_;
  uint64_t pending_ = 0;
  uint64_t held_ = 0;  // less than 32
};

// Each element: gap >> k zeros, a one, the sign, the low k bits of the gap; low bits first.
// visit(position) besides.
template <typename Visit>
inline void WriteEntropy(const Selection& s, int rice_bits, uint32_t* words, Visit visit) {
  static_assert(15 + kMaxRiceBits + 2 <= 32, "the last zeros and what follows are put at once");
  BitWriter writer(words);
  const uint32_t k = static_cast<uint32_t>(rice_bits), length = k + 2;
  const uint32_t low = (1u << k) - 1;
  int64_t after = 0;  // the one before
  ForEachSelected(s, [&](int64_t position, uint32_t sign) {
    const uint32_t gap = static_cast<uint32_t>(position - after);
    const uint32_t tail = (gap & low) << 2 | sign >> 30 | 1;
    uint32_t zeros = gap >> k;
    for (; zeros > 15; zeros -= 16) writer.Put(16, 0, 0);
    writer.Put(zeros, tail, length);
    visit(position);
    after = position + 1;
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

// The elements of a segment, one after the other.
class EntropyReader {
 public:
  LOWPREC_HD EntropyReader(const uint32_t* words, int64_t num_words, int rice_bits,
                           int64_t num_elements)
      : words_(words),
        num_bits_(32 * num_words),
        num_elements_(num_elements),
        rice_bits_(rice_bits),
        low_((uint64_t{1} << rice_bits) - 1) {}

  enum class Next { kElement, kEnd, kCorrupt };
  // Visits one element.
  template <typename Visit>
  LOWPREC_HD_INLINE Next One(Visit visit) {
    int64_t one = at_;  // the next bit that is set
    for (uint32_t rest = 0;; one = (one | 31) + 1) {
      if (one == num_bits_) return one - at_ < 32 ? Next::kEnd : Next::kCorrupt;
      rest = words_[one >> 5] >> (one & 31);
      if (rest == 0) continue;
      one += TrailingZeros(rest);
      break;
    }
    const int64_t end = one + 2 + rice_bits_;
    if (end > num_bits_) return Next::kCorrupt;
    const int64_t word = (one + 1) >> 5;
    uint64_t tail = words_[word];
    if (32 * (word + 1) < end) tail |= static_cast<uint64_t>(words_[word + 1]) << 32;
    tail >>= (one + 1) & 31;
    position_ += 1 + ((one - at_) << rice_bits_ | static_cast<int64_t>(tail >> 1 & low_));
    if (position_ >= num_elements_) return Next::kCorrupt;
    visit(position_, static_cast<uint32_t>(tail & 1) << 31);
    at_ = end;
    return Next::kElement;
  }

  // Visits elements as long as these are short and the end is not near, four from a word of 57
  // bits or more. Returns their number, or -1 if one makes no sense.
  template <typename Visit>
  int64_t Many(Visit visit) {
    constexpr int kAtOnce = 4, kBits = 57;
    const char* const bytes = reinterpret_cast<const char*>(words_);
    int64_t at = at_, position = position_, sent = 0;
    while (at + 64 <= num_bits_) {
      uint64_t bits;
      memcpy(&bits, bytes + (at >> 3), sizeof(bits));
      bits >>= at & 7;
      int used = 0;
      for (int i = 0; i < kAtOnce; ++i) {
        if (bits == 0) break;
        const int zeros = TrailingZeros(bits), length = zeros + 2 + rice_bits_;
        if (used + length > kBits) break;
        const uint64_t tail = bits >> zeros >> 1;
        position += 1 + static_cast<int64_t>(static_cast<uint64_t>(zeros) << rice_bits_ |
                                             (tail >> 1 & low_));
        if (position >= num_elements_) return -1;
        visit(position, static_cast<uint32_t>(tail & 1) << 31);
        ++sent;
        used += length;
        bits >>= length;
      }
      if (used == 0) break;
      at += used;
    }
    at_ = at;
    position_ = position;
    return sent;
  }

 private:
  const uint32_t* const words_;
  const int64_t num_bits_, num_elements_;
  const int rice_bits_;
  const uint64_t low_;
  int64_t at_ = 0, position_ = -1;  // bits read; the last element
};

// visit(position, sign bit as bit 31) for each element of a segment. Returns their number, or -1 if
// some code makes no sense; positions in the segment only are visited.
template <typename Visit>
LOWPREC_HD_INLINE int64_t WalkEntropy(const uint32_t* words, int64_t num_words, int rice_bits,
                                      int64_t num_elements, Visit visit) {
  EntropyReader reader(words, num_words, rice_bits, num_elements);
  int64_t sent = 0;
  for (;;) {
#if !defined(__CUDA_ARCH__)
    const int64_t many = reader.Many(visit);
    if (many < 0) return -1;
    sent += many;
#endif
    switch (reader.One(visit)) {
      case EntropyReader::Next::kElement:
        ++sent;
        break;
      case EntropyReader::Next::kEnd:
        return sent;
      case EntropyReader::Next::kCorrupt:
        return -1;
    }
  }
}

LOWPREC_END_NAMESPACE

#endif  // TF_LOWPREC_CC_NUMERICS_ADACOMP_RICE_H_
