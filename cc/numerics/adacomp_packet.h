// The header, the segment table and the checksum of an AdaComp packet: docs/adacomp.md.
#ifndef TF_LOWPREC_CC_NUMERICS_ADACOMP_PACKET_H_
#define TF_LOWPREC_CC_NUMERICS_ADACOMP_PACKET_H_

#include <cstdint>
#include <cstring>

#include "cc/numerics/macros.h"

LOWPREC_BEGIN_NAMESPACE

constexpr uint32_t kPacketMagic = 0xAC;
constexpr uint32_t kPacketVersion = 1;
constexpr int64_t kPacketHeaderWords = 5;
constexpr int64_t kWideHeaderWords = 7;  // from 2^32 elements on
constexpr int64_t kMaxPacketWords = (int64_t{1} << 31) - 1;
constexpr int kMaxBinSize = 1 << 14;  // indices of at most 14 bits
constexpr int kMaxByteBinSize = 64;   // of at most 6
// Segments are coded apart, so that threads need not wait for each other.
constexpr int64_t kSegmentElements = 1 << 17;
constexpr int64_t kMaxSegmentWords = (int64_t{1} << 24) - 1;
constexpr int kMaxRiceBits = 15;

constexpr uint32_t kPacketEntropy = 1, kPacketSkip = 2, kPacketWide = 4;

struct PacketHeader {
  bool entropy = false;
  bool skip = false;  // the gradient was not finite: nothing is sent
  int64_t num_elements = 0;
  int bin_size = 1;
  float scale = 0;
  int64_t sent = 0;

  LOWPREC_HD bool wide() const { return num_elements >> 32 != 0; }
  LOWPREC_HD int64_t num_words() const { return wide() ? kWideHeaderWords : kPacketHeaderWords; }
};

// The least x such that 2^x >= n: the bits of an index below n.
LOWPREC_HD int CeilLog2(int64_t n) {
  int bits = 0;
  while ((int64_t{1} << bits) < n) ++bits;
  return bits;
}

// How a tensor is cut into bins and segments.
struct BinLayout {
  int64_t num_elements, num_bins, bins_per_segment, num_segments;
  int bin_size;

  LOWPREC_HD BinLayout(int64_t n, int size)
      : num_elements(n),
        num_bins(n / size + (n % size != 0)),
        bins_per_segment(kSegmentElements / size),
        num_segments(num_bins / bins_per_segment + (num_bins % bins_per_segment != 0)),
        bin_size(size) {}

  LOWPREC_HD int64_t SegmentBegin(int64_t segment) const {  // in elements
    return segment * bins_per_segment * bin_size;
  }
  LOWPREC_HD int64_t SegmentElements(int64_t segment) const {
    const int64_t left = num_elements - SegmentBegin(segment);
    return left < bins_per_segment * bin_size ? left : bins_per_segment * bin_size;
  }
  LOWPREC_HD int64_t SegmentBins(int64_t segment) const {
    const int64_t left = num_bins - segment * bins_per_segment;
    return left < bins_per_segment ? left : bins_per_segment;
  }
};

// An entry of the segment table: the segment's words, and its Rice parameter in the top byte.
LOWPREC_HD uint32_t SegmentEntry(int64_t words, int rice_bits) {
  return static_cast<uint32_t>(words) | static_cast<uint32_t>(rice_bits) << 24;
}
LOWPREC_HD int64_t SegmentWords(uint32_t entry) { return entry & kMaxSegmentWords; }
LOWPREC_HD int SegmentRiceBits(uint32_t entry) { return static_cast<int>(entry >> 24); }

// The finalizer of MurmurHash3: a bijection, so that no change of a single word goes unseen.
LOWPREC_HD uint32_t MixWord(uint32_t word, uint32_t index) {
  uint32_t x = word + index * 0x9E3779B9u;
  x ^= x >> 16;
  x *= 0x85EBCA6Bu;
  x ^= x >> 13;
  x *= 0xC2B2AE35u;
  return x ^ x >> 16;
}

// The sum of all mixed words, modulo 2^32, the checksum's own (word 1) taken as 0. A sum, so that
// it can be taken in any order.
inline uint32_t PacketChecksum(const uint32_t* words, int64_t num_words) {
  uint32_t sum = 0;
  for (int64_t i = 0; i < num_words; ++i) sum += MixWord(words[i], static_cast<uint32_t>(i));
  return sum - MixWord(words[1], 1) + MixWord(0, 1);
}

LOWPREC_HD void WritePacketHeader(const PacketHeader& header, uint32_t* words) {
  const uint32_t flags = (header.entropy ? kPacketEntropy : 0) | (header.skip ? kPacketSkip : 0) |
                         (header.wide() ? kPacketWide : 0);
  words[0] = kPacketMagic << 24 | kPacketVersion << 20 | flags << 16 |
             static_cast<uint32_t>(header.bin_size);
  words[1] = 0;
  words[2] = static_cast<uint32_t>(header.num_elements);
  memcpy(&words[3], &header.scale, sizeof(float));
  words[4] = static_cast<uint32_t>(header.sent);
  if (header.wide()) {
    words[5] = static_cast<uint32_t>(header.num_elements >> 32);
    words[6] = static_cast<uint32_t>(header.sent >> 32);
  }
}

// The header of a packet that has one: kPacketHeaderWords words, kWideHeaderWords with kPacketWide.
LOWPREC_HD PacketHeader ParsePacketHeader(const uint32_t* words) {
  const uint32_t flags = words[0] >> 16;
  const bool wide = (flags & kPacketWide) != 0;
  PacketHeader header;
  header.entropy = (flags & kPacketEntropy) != 0;
  header.skip = (flags & kPacketSkip) != 0;
  header.bin_size = static_cast<int>(words[0] & 0xFFFF);
  header.num_elements =
      static_cast<int64_t>(words[2] | (wide ? static_cast<uint64_t>(words[5]) << 32 : 0));
  memcpy(&header.scale, &words[3], sizeof(float));
  header.sent = static_cast<int64_t>(words[4] | (wide ? static_cast<uint64_t>(words[6]) << 32 : 0));
  return header;
}

// What is wrong with the header, the checksum or the segment table of a packet of `num_words`
// words, or nullptr. Reads header and table only: checksum() gives what the checksum should be.
template <typename Checksum>
inline const char* CheckPacketHeader(const uint32_t* words, int64_t num_words, Checksum checksum) {
  if (num_words < kPacketHeaderWords) return "it is shorter than a header (5 words)";
  if (words[0] >> 24 != kPacketMagic) return "it does not begin with the magic number 0xAC";
  if ((words[0] >> 20 & 0xF) != kPacketVersion) return "its version is not 1";
  const uint32_t flags = words[0] >> 16 & 0xF;
  if (flags & ~(kPacketEntropy | kPacketSkip | kPacketWide)) return "it has unknown flags";
  if ((flags & kPacketWide) && num_words < kWideHeaderWords) {
    return "it is shorter than its header (7 words)";
  }
  if (checksum() != words[1]) return "its checksum is wrong";
  const PacketHeader header = ParsePacketHeader(words);
  if (header.bin_size < 1 || header.bin_size > kMaxBinSize) {
    return "its bin size is not in 1..16384";
  }
  if (words[3] >= 0x7F800000u) return "its scale is not a finite number >= 0";
  if (header.num_elements < 0 || header.wide() != ((flags & kPacketWide) != 0)) {
    return "its number of elements is not what its header has room for";
  }
  if (header.sent < 0 || header.sent > header.num_elements) {
    return "it claims to send more elements than there are";
  }
  if (header.skip) {
    if (num_words != header.num_words()) return "it is a skip packet with a body";
    return header.sent != 0 || words[3] != 0 ? "it is a skip packet that sends" : nullptr;
  }
  const BinLayout layout(header.num_elements, header.bin_size);
  if (layout.num_segments > num_words - header.num_words()) {
    return "it is too short for its segment table";
  }
  int64_t end = header.num_words() + layout.num_segments;
  for (int64_t i = 0; i < layout.num_segments; ++i) {
    const uint32_t entry = words[header.num_words() + i];
    if (SegmentRiceBits(entry) > (header.entropy ? kMaxRiceBits : 0)) {
      return "a segment's Rice parameter is out of range";
    }
    end += SegmentWords(entry);
  }
  return end != num_words ? "its segments' lengths do not add up to its own" : nullptr;
}

inline const char* CheckPacketHeader(const uint32_t* words, int64_t num_words) {
  return CheckPacketHeader(words, num_words, [=] { return PacketChecksum(words, num_words); });
}

// No packet for n elements has more words before its segments' codes.
LOWPREC_HD int64_t MaxPacketPrefix(int64_t n) {
  return kWideHeaderWords + n / (kSegmentElements - kMaxBinSize) + 1;
}

LOWPREC_END_NAMESPACE

#endif  // TF_LOWPREC_CC_NUMERICS_ADACOMP_PACKET_H_
