#include "cc/kernels/adacomp_codec.h"

#include <algorithm>
#include <atomic>
#include <limits>
#include <utility>

#include "cc/kernels/cpu_features.h"
#include "cc/numerics/adacomp_codes.h"
#include "cc/numerics/adacomp_packet.h"
#include "cc/numerics/adacomp_select.h"

namespace tf_lowprec {

AdaCompLoops AdaCompPortable();
#if defined(__x86_64__)
AdaCompLoops AdaCompAvx2();
AdaCompLoops AdaCompAvx512();
#endif

AdaCompLoops ChooseAdaComp() {
  switch (ChooseIsa()) {
#if defined(__x86_64__)
    case Isa::kAvx512:
      return AdaCompAvx512();
    case Isa::kAvx2:
      return AdaCompAvx2();
#endif
    default:
      return AdaCompPortable();
  }
}

namespace {

// Where each segment's words begin in a packet whose segment table, at word `begin`, is given.
std::vector<int64_t> SegmentOffsets(const uint32_t* table, int64_t begin, const BinLayout& layout) {
  std::vector<int64_t> offsets(layout.num_segments);
  int64_t offset = begin + layout.num_segments;
  for (int64_t i = 0; i < layout.num_segments; ++i) {
    offsets[i] = offset;
    offset += SegmentWords(table[i]);
  }
  return offsets;
}

// Segment i of a packet, its words from `offset` on.
AdaCompCoded CodedSegment(const PacketHeader& header, const uint32_t* packet, int64_t offset,
                          int64_t i) {
  const BinLayout layout(header.num_elements, header.bin_size);
  return {packet + offset,
          packet[header.num_words() + i],
          layout.SegmentElements(i),
          header.bin_size,
          header.entropy,
          header.scale};
}

}  // namespace

AdaCompEncoder::AdaCompEncoder(const AdaCompTask& task, const AdaCompLoops& loops, AdaCompRun run)
    : task_(task), loops_(loops), run_(std::move(run)) {}

void AdaCompEncoder::Owned::Grow(int64_t capacity) {
  std::unique_ptr<uint16_t[]> larger(new uint16_t[capacity]);
  std::copy_n(codes.get(), segment.size, larger.get());
  codes = std::move(larger);
  segment.codes = codes.get();
  segment.capacity = capacity;
}

void AdaCompEncoder::SelectSegment(int64_t index) {
  const BinLayout layout(task_.num_elements, task_.bin_size);
  Owned& owned = segments_[index];
  AdaCompSegment* segment = &owned.segment;
  const int64_t bins = layout.SegmentBins(index), first = index * layout.bins_per_segment;
  // Usually a few per cent are sent; where it is more, room is made as it fills.
  owned.Grow(AdaCompRoom(task_.bin_size) + layout.SegmentElements(index) / 16);
  int64_t bin = 0;
  while (bin < bins && segment->finite) {
    bin = loops_.select(task_, first, bin, bins, segment, maxima_.data());
    if (bin < bins && segment->finite) owned.Grow(2 * segment->capacity);
  }
  if (segment->finite) loops_.measure(task_, segment);
}

int64_t AdaCompEncoder::Select() {
  const BinLayout layout(task_.num_elements, task_.bin_size);
  maxima_.resize(layout.num_bins);
  segments_.resize(layout.num_segments);
  run_(layout.num_segments, kSegmentElements, [this](int64_t begin, int64_t end) {
    // Backwards: of a long residue the caches keep its end that was written last, and Write begins
    // there.
    for (int64_t i = end; i-- > begin;) SelectSegment(i);
  });
  header_.num_elements = task_.num_elements;
  header_.bin_size = task_.bin_size;
  header_.entropy = task_.entropy;
  num_words_ = header_.num_words() + layout.num_segments;
  for (const Owned& owned : segments_) {
    header_.skip = header_.skip || !owned.segment.finite;
    num_words_ += SegmentWords(owned.segment.entry);
    header_.sent += owned.segment.size - owned.segment.num_empty;
  }
  if (header_.skip) {
    header_.sent = 0;
    return num_words_ = header_.num_words();
  }
  header_.scale = MeanOfMaxima(loops_.sum(maxima_.data(), layout.num_bins), layout.num_bins);
  return num_words_;
}

void AdaCompEncoder::Write(uint32_t* packet) {
  const BinLayout layout(task_.num_elements, task_.bin_size);
  WritePacketHeader(header_, packet);
  if (!header_.skip) {
    uint32_t* table = packet + header_.num_words();
    for (int64_t i = 0; i < layout.num_segments; ++i) table[i] = segments_[i].segment.entry;
    const std::vector<int64_t> offsets = SegmentOffsets(table, header_.num_words(), layout);
    run_(layout.num_segments, kSegmentElements / 4, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        loops_.write(task_, segments_[i].segment, header_.scale, packet + offsets[i],
                     task_.new_residue + layout.SegmentBegin(i));
      }
    });
  } else {
    run_(task_.num_elements, 1, [this](int64_t begin, int64_t end) {
      std::copy(task_.residue + begin, task_.residue + end, task_.new_residue + begin);
    });
  }
  packet[1] = loops_.checksum(packet, num_words_);
}

const char* CheckAdaCompPacket(const uint32_t* packet, int64_t num_words, int64_t num_elements,
                               const AdaCompLoops& loops, const AdaCompRun& run) {
  const char* problem =
      CheckPacketHeader(packet, num_words, [&] { return loops.checksum(packet, num_words); });
  if (problem != nullptr) return problem;
  const PacketHeader header = ParsePacketHeader(packet);
  if (header.num_elements != num_elements) return kForAnotherNumber;
  if (header.skip) return nullptr;
  const BinLayout layout(header.num_elements, header.bin_size);
  const uint32_t* table = packet + header.num_words();
  const std::vector<int64_t> offsets = SegmentOffsets(table, header.num_words(), layout);
  std::atomic<int64_t> sent(0);
  std::atomic<bool> sound(true);
  run(layout.num_segments, kSegmentElements / 16, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t count = loops.check(CodedSegment(header, packet, offsets[i], i));
      if (count < 0) {
        sound = false;
      } else {
        sent += count;
      }
    }
  });
  if (!sound) return kSegmentUnsound;
  return sent != header.sent ? kSendsAnotherNumber : nullptr;
}

void AddAdaCompPacket(const uint32_t* packet, bool first, float* y, const AdaCompLoops& loops,
                      const AdaCompRun& run) {
  const PacketHeader header = ParsePacketHeader(packet);
  if (header.skip) {
    run(header.num_elements, 1, [y](int64_t begin, int64_t end) {
      std::fill(y + begin, y + end, std::numeric_limits<float>::quiet_NaN());
    });
    return;
  }
  const BinLayout layout(header.num_elements, header.bin_size);
  const uint32_t* table = packet + header.num_words();
  const std::vector<int64_t> offsets = SegmentOffsets(table, header.num_words(), layout);
  run(layout.num_segments, kSegmentElements / 4, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      loops.add(CodedSegment(header, packet, offsets[i], i), first, y + layout.SegmentBegin(i));
    }
  });
}

}  // namespace tf_lowprec
