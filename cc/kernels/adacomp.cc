#include "cc/kernels/adacomp.h"

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

Selection SelectionOf(const AdaCompSegment& segment, int bin_size) {
  return {segment.counts.data(), static_cast<int64_t>(segment.counts.size()),
          segment.elements.get(), bin_size};
}

void Grow(AdaCompSegment* segment, int64_t capacity) {
  std::unique_ptr<uint16_t[]> larger(new uint16_t[capacity]);
  std::copy_n(segment->elements.get(), segment->size, larger.get());
  segment->elements = std::move(larger);
  segment->capacity = capacity;
}

}  // namespace

AdaCompEncoder::AdaCompEncoder(const AdaCompTask& task, const AdaCompLoops& loops, AdaCompRun run)
    : task_(task), loops_(loops), run_(std::move(run)) {}

void AdaCompEncoder::SelectSegment(int64_t index) {
  const BinLayout layout(task_.num_elements, task_.bin_size);
  AdaCompSegment* segment = &segments_[index];
  const int64_t bins = layout.SegmentBins(index), first = index * layout.bins_per_segment;
  segment->counts.resize(bins);
  // Usually a few per cent are sent; where it is more, room is made as it fills.
  const int64_t elements = layout.SegmentElements(index);
  Grow(segment, std::min<int64_t>(elements, task_.bin_size + elements / 16));
  int64_t bin = 0;
  while (bin < bins && segment->finite) {
    bin = loops_.select(task_, first, bin, bins, segment, maxima_.data());
    if (bin < bins && segment->finite) Grow(segment, std::min(elements, 2 * segment->capacity));
  }
  if (segment->finite) loops_.measure(task_, segment);
}

int64_t AdaCompEncoder::Select() {
  const BinLayout layout(task_.num_elements, task_.bin_size);
  maxima_.resize(layout.num_bins);
  segments_.resize(layout.num_segments);
  run_(layout.num_segments, kSegmentElements, [this](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) SelectSegment(i);
  });
  num_words_ = kPacketHeaderWords + layout.num_segments;
  for (const AdaCompSegment& segment : segments_) {
    finite_ = finite_ && segment.finite;
    num_words_ += SegmentWords(segment.entry);
    sent_ += segment.size;
  }
  if (!finite_) {
    sent_ = 0;
    return num_words_ = kPacketHeaderWords;
  }
  double sum = 0;
  for (const float highest : maxima_) sum += highest;
  scale_ = MeanOfMaxima(sum, layout.num_bins);
  return num_words_;
}

void AdaCompEncoder::Write(uint32_t* packet) {
  const BinLayout layout(task_.num_elements, task_.bin_size);
  PacketHeader header;
  header.entropy = task_.entropy;
  header.skip = !finite_;
  header.num_words = num_words_;
  header.num_elements = task_.num_elements;
  header.bin_size = task_.bin_size;
  header.scale = scale_;
  header.sent = sent_;
  WritePacketHeader(header, packet);
  if (finite_) {
    std::vector<int64_t> offsets(layout.num_segments);
    int64_t offset = kPacketHeaderWords + layout.num_segments;
    for (int64_t i = 0; i < layout.num_segments; ++i) {
      offsets[i] = offset;
      offset += SegmentWords(segments_[i].entry);
      packet[kPacketHeaderWords + i] = segments_[i].entry;
    }
    run_(layout.num_segments, kSegmentElements / 4, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const Selection selection = SelectionOf(segments_[i], task_.bin_size);
        WriteSegment(selection, task_.entropy, segments_[i].entry, packet + offsets[i]);
        float* residue = task_.new_residue + layout.SegmentBegin(i);
        ForEachSelected(selection, [this, residue](int64_t position, bool) {
          residue[position] = ResidueOfSent(residue[position], scale_);
        });
      }
    });
  } else {
    run_(task_.num_elements, 1, [this](int64_t begin, int64_t end) {
      std::copy(task_.residue + begin, task_.residue + end, task_.new_residue + begin);
    });
  }
  packet[1] = PacketChecksum(packet, num_words_);
}

namespace {

// Where each segment's words begin.
std::vector<int64_t> SegmentOffsets(const uint32_t* packet, const BinLayout& layout) {
  std::vector<int64_t> offsets(layout.num_segments);
  int64_t offset = kPacketHeaderWords + layout.num_segments;
  for (int64_t i = 0; i < layout.num_segments; ++i) {
    offsets[i] = offset;
    offset += SegmentWords(packet[kPacketHeaderWords + i]);
  }
  return offsets;
}

}  // namespace

const char* CheckAdaCompPacket(const uint32_t* packet, int64_t num_words, int64_t num_elements,
                               const AdaCompRun& run) {
  const char* problem = CheckPacketHeader(packet, num_words);
  if (problem != nullptr) return problem;
  const PacketHeader header = ParsePacketHeader(packet);
  if (header.num_elements != num_elements) return "it is for another number of elements";
  if (header.skip) return nullptr;
  const BinLayout layout(header.num_elements, header.bin_size);
  const std::vector<int64_t> offsets = SegmentOffsets(packet, layout);
  std::atomic<int64_t> sent(0);
  std::atomic<bool> sound(true);
  run(layout.num_segments, kSegmentElements / 16, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t count = CheckSegment(header, packet[kPacketHeaderWords + i],
                                         packet + offsets[i], layout.SegmentElements(i));
      if (count < 0) {
        sound = false;
      } else {
        sent += count;
      }
    }
  });
  if (!sound) return "a segment's codes make no sense";
  return sent != header.sent ? "it sends another number of elements than it claims" : nullptr;
}

void AddAdaCompPacket(const uint32_t* packet, bool first, float* y, const AdaCompRun& run) {
  const PacketHeader header = ParsePacketHeader(packet);
  if (header.skip) {
    run(header.num_elements, 1, [y](int64_t begin, int64_t end) {
      std::fill(y + begin, y + end, std::numeric_limits<float>::quiet_NaN());
    });
    return;
  }
  const BinLayout layout(header.num_elements, header.bin_size);
  const std::vector<int64_t> offsets = SegmentOffsets(packet, layout);
  run(layout.num_segments, kSegmentElements / 4, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      float* part = y + layout.SegmentBegin(i);
      const int64_t elements = layout.SegmentElements(i);
      if (first) std::fill_n(part, elements, 0.0f);
      AddSegment(header, packet[kPacketHeaderWords + i], packet + offsets[i], elements, part);
    }
  });
}

}  // namespace tf_lowprec
