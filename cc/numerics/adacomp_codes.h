// How the elements that AdaComp sends are written in one segment of a packet, and read back, in
// either encoding: docs/adacomp.md. No TensorFlow, no allocation.
#ifndef TF_LOWPREC_CC_NUMERICS_ADACOMP_CODES_H_
#define TF_LOWPREC_CC_NUMERICS_ADACOMP_CODES_H_

#include <cstdint>
#include <cstring>

#include "cc/numerics/adacomp_packet.h"
#include "cc/numerics/adacomp_plain.h"
#include "cc/numerics/adacomp_rice.h"
#include "cc/numerics/adacomp_selection.h"
#include "cc/numerics/macros.h"

LOWPREC_BEGIN_NAMESPACE

#if !defined(__CUDACC__)

// A segment's entry in the table: its length and Rice parameter.
inline uint32_t MeasureSegment(const Selection& s, bool entropy) {
  if (entropy) {
    const RiceCost cost = CheapestRice(s);
    return SegmentEntry((cost.bits + 31) / 32, cost.rice_bits);
  }
  return SegmentEntry(
      s.bin_size <= kMaxByteBinSize ? PlainWords<uint8_t>(s) : PlainWords<uint16_t>(s), 0);
}

// visit(position) for each element besides.
template <typename Visit>
inline void WriteSegment(const Selection& s, bool entropy, uint32_t entry, uint32_t* words,
                         Visit visit) {
  if (entropy) return WriteEntropy(s, SegmentRiceBits(entry), words, visit);
  if (s.bin_size <= kMaxByteBinSize) {
    WritePlain<uint8_t>(s, words, SegmentWords(entry));
  } else {
    WritePlain<uint16_t>(s, words, SegmentWords(entry));
  }
  ForEachSelected(s, [&visit](int64_t position, uint32_t) { visit(position); });
}

#endif

// visit(position, sign bit as bit 31) for each element of a segment that CheckSegment found sound.
template <typename Visit>
LOWPREC_HD_INLINE void WalkSegment(const PacketHeader& header, uint32_t entry,
                                   const uint32_t* words, int64_t num_elements, Visit visit) {
  const int64_t num_words = SegmentWords(entry);
  const int bin_size = header.bin_size;
  if (header.entropy) {
    WalkEntropy(words, num_words, SegmentRiceBits(entry), num_elements, visit);
  } else if (bin_size <= kMaxByteBinSize) {
    WalkPlain<uint8_t>(words, num_words, num_elements, bin_size, visit);
  } else {
    WalkPlain<uint16_t>(words, num_words, num_elements, bin_size, visit);
  }
}

// The number of elements that a segment sends, or -1 if it is corrupt.
LOWPREC_HD_INLINE int64_t CheckSegment(const PacketHeader& header, uint32_t entry,
                                       const uint32_t* words, int64_t num_elements) {
  const int64_t num_words = SegmentWords(entry);
  if (header.entropy) {
    return WalkEntropy(words, num_words, SegmentRiceBits(entry), num_elements,
                       [](int64_t, uint32_t) {});
  }
  return header.bin_size <= kMaxByteBinSize
             ? CheckPlain<uint8_t>(words, num_words, num_elements, header.bin_size)
             : CheckPlain<uint16_t>(words, num_words, num_elements, header.bin_size);
}

// y[position] += its value, for a segment that CheckSegment found sound.
inline void AddSegment(const PacketHeader& header, uint32_t entry, const uint32_t* words,
                       int64_t num_elements, float* y) {
  uint32_t scale;
  memcpy(&scale, &header.scale, sizeof(scale));
  WalkSegment(header, entry, words, num_elements, [=](int64_t i, uint32_t sign) {
    const uint32_t bits = scale | sign;
    float value;
    memcpy(&value, &bits, sizeof(value));
    y[i] += value;
  });
}

LOWPREC_END_NAMESPACE

#endif  // TF_LOWPREC_CC_NUMERICS_ADACOMP_CODES_H_
