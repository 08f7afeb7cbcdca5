// How the elements that AdaComp sends are written in one segment of a packet, and read back:
// docs/adacomp.md. No TensorFlow, no allocation.
#ifndef TF_LOWPREC_CC_NUMERICS_ADACOMP_CODES_H_
#define TF_LOWPREC_CC_NUMERICS_ADACOMP_CODES_H_

#include <cstdint>
#include <cstring>

#include "cc/numerics/adacomp_packet.h"
#include "cc/numerics/macros.h"

LOWPREC_BEGIN_NAMESPACE

// What was selected in a segment, as 16-bit codes: for each bin its elements in order (the index in
// the bin, a sign bit, and a bit that is set in the bin's first), or a 0 if it has none.
struct Selection {
  const uint16_t* codes;
  int64_t num_codes;
  int64_t num_empty;  // bins, of the codes
  int bin_size;
};

constexpr uint16_t kSelectedIndex = 0x3FFF, kSelectedSign = 0x4000, kSelectedFirst = 0x8000;

// visit(position in the segment, sign bit as bit 31) for each selected element.
template <typename Visit>
inline void ForEachSelected(const Selection& s, Visit visit) {
  int64_t begin = -s.bin_size;
  for (int64_t i = 0; i < s.num_codes; ++i) {
    const uint32_t code = s.codes[i];
    // Only one branch, and that one rarely taken: which elements are first cannot be foreseen.
    begin += s.bin_size & -static_cast<int64_t>(code >> 15);
    if (code == 0) {
      begin += s.bin_size;
    } else {
      visit(begin + (code & kSelectedIndex), (code & kSelectedSign) << 17);
    }
  }
}

// ---- plain: one code of 8 or 16 bits per element --------------------------------------------

// From bit 0: a field of an index, a sign bit, and a bit that is set in the first code of a bin.
// The index takes as many bits of its field as the bin size asks for; in the others a first code
// says how many empty bins come before its own. A code that is not the first has an index above 0,
// so that field 0 without that bit is free to stand for empty bins: one, or, with the sign bit, as
// many as the next code says, plus 2.
template <typename Code>
struct PlainCode {
  static constexpr int kFieldBits = 8 * static_cast<int>(sizeof(Code)) - 2;
  static constexpr Code kField = (1 << kFieldBits) - 1;
  static constexpr Code kSign = 1 << kFieldBits;
  static constexpr Code kFirst = 1 << (kFieldBits + 1);
  static constexpr Code kEmptyBin = 0;
  static constexpr Code kEmptyRun = kSign;
  static constexpr int64_t kLongestRun = (int64_t{1} << (8 * sizeof(Code))) + 1;

  int index_bits;

  LOWPREC_HD explicit PlainCode(int bin_size) : index_bits(CeilLog2(bin_size)) {}

  static LOWPREC_HD Code Of(uint32_t selected) {
    return static_cast<Code>((selected & kField) | (selected >> 14 << kFieldBits));
  }
  // How many of a run of empty bins the first code after it says.
  LOWPREC_HD int64_t Skipped(int64_t empty) const {
    const int64_t most = kField >> index_bits;
    return empty < most ? empty : most;
  }
  // A bin's first element, after a run of `empty` empty bins.
  LOWPREC_HD Code OfFirst(uint32_t selected, int64_t empty) const {
    return static_cast<Code>(Of(selected) | Skipped(empty) << index_bits);
  }
  // put(code) for a run of empty bins, but those that the first code after it says; `last`: none
  // comes after it.
  template <typename Put>
  LOWPREC_HD_INLINE void PutEmptyBins(int64_t empty, bool last, Put put) const {
    if (!last) empty -= Skipped(empty);
    while (empty > 1) {
      const int64_t run = empty < kLongestRun ? empty : kLongestRun;
      put(kEmptyRun);
      put(static_cast<Code>(run - 2));
      empty -= run;
    }
    if (empty == 1) put(kEmptyBin);
  }
};

// put(code) for all codes of a segment. For the device too, as what nvcc's lambdas are made in must
// be where what they are passed to is.
template <typename Code, typename Put>
LOWPREC_HD_INLINE void ForEachPlainCode(const Selection& s, Put put) {
  const PlainCode<Code> plain(s.bin_size);
  for (int64_t i = 0; i < s.num_codes; ++i) {
    const int64_t run = i;
    while (i < s.num_codes && s.codes[i] == 0) ++i;
    if (i == run) {
      put(plain.Of(s.codes[i]));
      continue;
    }
    const bool last = i == s.num_codes;
    plain.PutEmptyBins(i - run, last, put);
    if (!last) put(plain.OfFirst(s.codes[i], i - run));
  }
}

template <typename Code>
LOWPREC_HD_INLINE int64_t PlainWords(const Selection& s) {
  int64_t codes = s.num_codes;
  if (s.num_empty > 0) {
    codes = 0;
    ForEachPlainCode<Code>(s, [&codes](Code) { ++codes; });
  }
  const int64_t per_word = 4 / sizeof(Code);
  return (codes + per_word - 1) / per_word;
}

// Little-endian within words; the last word is filled with zeros.
template <typename Code>
LOWPREC_HD_INLINE void WritePlain(const Selection& s, uint32_t* words, int64_t num_words) {
  if (num_words == 0) return;
  words[num_words - 1] = 0;
  char* out = reinterpret_cast<char*>(words);
  const auto put = [&out](Code code) {
    memcpy(out, &code, sizeof(code));
    out += sizeof(code);
  };
  if (s.num_empty == 0) {
    for (int64_t i = 0; i < s.num_codes; ++i) put(PlainCode<Code>::Of(s.codes[i]));
  } else {
    ForEachPlainCode<Code>(s, put);
  }
}

// Moves `begin` to the last of the empty bins that `code` stands for; false if they are too many.
template <typename Code>
LOWPREC_HD_INLINE bool SkipEmptyBins(Code code, const char** in, const char* end,
                                     int64_t num_elements, int bin_size, int64_t* begin) {
  int64_t bins = 1;
  if (code == PlainCode<Code>::kEmptyRun) {
    if (*in == end) return false;
    memcpy(&code, *in, sizeof(code));
    *in += sizeof(code);
    bins = int64_t{code} + 2;
  }
  *begin += bins * bin_size;
  return *begin < num_elements;
}

// visit(position, sign bit as bit 31) for each element of a segment. Returns the number of
// elements, or -1 if some code makes no sense: then positions outside the segment may have been
// visited. With kSound the codes are known to make sense.
template <typename Code, bool kSound, typename Visit>
LOWPREC_HD_INLINE int64_t WalkPlain(const uint32_t* words, int64_t num_words, int64_t num_elements,
                                    int bin_size, Visit visit) {
  using P = PlainCode<Code>;
  const int index_bits = P(bin_size).index_bits;
  const int64_t index_mask = (int64_t{1} << index_bits) - 1;
  const char* in = reinterpret_cast<const char*>(words);
  const char* const end = in + 4 * num_words;
  // begin: of the current bin; next: the least index that a further element of it may have.
  int64_t begin = -bin_size, next = bin_size, sent = 0;
  bool sound = true;
  while (in != end) {
    Code code;
    memcpy(&code, in, sizeof(code));
    in += sizeof(code);
    const int64_t field = code & P::kField;
    const int64_t first = code >> (P::kFieldBits + 1);
    if ((code & (P::kField | P::kFirst)) == 0) {
      if (begin + bin_size >= num_elements) {  // behind the last bin: the rest fills a word
        sound = sound && code == 0 && end - in < 4 - static_cast<int>(sizeof(Code));
        for (; in != end; ++in) sound = sound && *in == 0;
        break;
      }
      if (!SkipEmptyBins(code, &in, end, num_elements, bin_size, &begin)) return -1;
      next = bin_size;
      continue;
    }
    // No branches here: which codes are first cannot be foreseen. A code that is not says nothing
    // of empty bins: else its index, which then is all of its field, is not in a bin.
    const int64_t index = field & (kSound ? index_mask : index_mask | (first - 1));
    begin += bin_size * (first + (field >> index_bits));
    if (!kSound) {
      next &= first - 1;
      sound = sound & (index >= next) & (index < bin_size) & (begin + index < num_elements);
      next = index + 1;
    }
    visit(begin + index, static_cast<uint32_t>(code >> P::kFieldBits & 1) << 31);
    ++sent;
  }
  return sound && begin + bin_size >= num_elements ? sent : -1;
}

// ---- entropy: Rice codes of the gaps between elements ---------------------------------------

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

// As WalkPlain; visits positions in the segment only.
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

// ---- both ---------------------------------------------------------------------------------------

// A segment's entry in the table: its length and Rice parameter.
inline uint32_t MeasureSegment(const Selection& s, bool entropy) {
  if (entropy) {
    const RiceCost cost = CheapestRice(s);
    return SegmentEntry((cost.bits + 31) / 32, cost.rice_bits);
  }
  return SegmentEntry(
      s.bin_size <= kMaxByteBinSize ? PlainWords<uint8_t>(s) : PlainWords<uint16_t>(s), 0);
}

inline void WriteSegment(const Selection& s, bool entropy, uint32_t entry, uint32_t* words) {
  if (entropy) {
    WriteEntropy(s, SegmentRiceBits(entry), words);
  } else if (s.bin_size <= kMaxByteBinSize) {
    WritePlain<uint8_t>(s, words, SegmentWords(entry));
  } else {
    WritePlain<uint16_t>(s, words, SegmentWords(entry));
  }
}

template <bool kSound, typename Visit>
LOWPREC_HD_INLINE int64_t WalkSegment(const PacketHeader& header, uint32_t entry,
                                      const uint32_t* words, int64_t num_elements, Visit visit) {
  const int64_t num_words = SegmentWords(entry);
  const int bin_size = header.bin_size;
  if (header.entropy) {
    return WalkEntropy(words, num_words, SegmentRiceBits(entry), num_elements, visit);
  }
  if (bin_size <= kMaxByteBinSize) {
    return WalkPlain<uint8_t, kSound>(words, num_words, num_elements, bin_size, visit);
  }
  return WalkPlain<uint16_t, kSound>(words, num_words, num_elements, bin_size, visit);
}

// The number of elements that a segment sends, or -1 if it is corrupt.
LOWPREC_HD_INLINE int64_t CheckSegment(const PacketHeader& header, uint32_t entry,
                                       const uint32_t* words, int64_t num_elements) {
  return WalkSegment<false>(header, entry, words, num_elements, [](int64_t, uint32_t) {});
}

// y[position] += its value, for a segment that CheckSegment found sound.
inline void AddSegment(const PacketHeader& header, uint32_t entry, const uint32_t* words,
                       int64_t num_elements, float* y) {
  uint32_t scale;
  memcpy(&scale, &header.scale, sizeof(scale));
  WalkSegment<true>(header, entry, words, num_elements, [=](int64_t i, uint32_t sign) {
    const uint32_t bits = scale | sign;
    float value;
    memcpy(&value, &bits, sizeof(value));
    y[i] += value;
  });
}

LOWPREC_END_NAMESPACE

#endif  // TF_LOWPREC_CC_NUMERICS_ADACOMP_CODES_H_
