// The CUDA kernels of AdaComp's encoder: bodies. Included by adacomp_gpu.cu.cc for nvcc and for the
// host, against gpu_shim.h.
//
//   Select   a group of threads per bin: G, the bin's greatest |G|, how many it sends
//   Place    a block per segment: where in its segment each bin's codes go
//   Combine  one block: the segments' places, and the scale
//   Send     a group per bin: codes into the packet (plain) or a list of positions (entropy), and
//            the new residue
//   Measure, Write   a block per segment, entropy only: the Rice parameter, the bits
//   Finish, Checksum   the rest of the packet
//
// Between Combine and Send the host reads the packet's length, in entropy packets the list's; then
// the former after Measure.
#ifndef TF_LOWPREC_CC_KERNELS_ADACOMP_GPU_H_
#define TF_LOWPREC_CC_KERNELS_ADACOMP_GPU_H_

#include "cc/kernels/adacomp.h"
#include "cc/kernels/gpu_block.h"
#include "cc/numerics/adacomp_codes.h"
#include "cc/numerics/adacomp_packet.h"
#include "cc/numerics/adacomp_select.h"

LOWPREC_BEGIN_NAMESPACE

// What is known of a segment.
struct GpuSegment {
  double sum;        // of the bins' greatest |G|
  uint32_t highest;  // of these, the greatest's bits
  int quantum;       // all of them are multiples of 2^quantum
  int64_t sent;
  int64_t first;  // of its sent elements, in the list of all
  int64_t words;
  int64_t offset;  // of its words, from the first segment's
  int rice_bits;
};

// What the host reads.
struct GpuSummary {
  uint32_t not_finite;  // whether some G is not
  float scale;
  int64_t sent;
  int64_t words;  // of all segments
};

// Device memory; one entry per bin, or per segment.
struct GpuAdaComp {
  AdaCompTask task;
  float* maxima;
  int32_t* counts;   // elements sent; from Place on, of a run's last empty bin minus the run's bins
  int32_t* offsets;  // of its first code, or its first element, in its segment
  GpuSegment* segments;
  GpuSummary* summary;
  uint32_t* list;  // entropy: positions in the segment of all that is sent, the sign in bit 31

  LOWPREC_HD BinLayout Layout() const { return {task.num_elements, task.bin_size}; }
  LOWPREC_HD bool Bytes() const { return task.bin_size <= kMaxByteBinSize; }  // of plain codes
};

// How the threads of a block are shared out among bins, a group to a bin.
struct BinGroups {
  int width;  // threads of a group, a power of two

  // Some four elements to a thread.
  explicit BinGroups(int bin_size) : width(1) {
    while (width < kGpuThreads && 4 * width < bin_size) width *= 2;
  }
  LOWPREC_HD int64_t PerBlock() const { return kGpuThreads / width; }
};

// A thread's bin; past the last one its size is 0.
struct GpuBin {
  int64_t index, begin, size;

  LOWPREC_DEVICE GpuBin(const BinLayout& layout, const BinGroups& groups, int64_t first)
      : index(first + static_cast<int>(threadIdx.x) / groups.width),
        begin(index * layout.bin_size) {
    const int64_t left = layout.num_elements - begin;
    size = left < layout.bin_size ? (left > 0 ? left : 0) : layout.bin_size;
  }
};

// Whether element i of the tensor is sent; G is in new_residue.
template <bool kTwice>
LOWPREC_DEVICE bool IsElementSent(const AdaCompTask& task, int64_t i, uint32_t highest) {
  const float g = task.new_residue[i], dw = task.gradient[i];
  const float residue = kTwice ? 0 : task.residue[i];
  return IsSent(g, LookAhead<kTwice>(g, dw, residue, task.soft_threshold), highest);
}

template <bool kTwice>
__global__ void AdaCompSelectKernel(GpuAdaComp work, BinGroups groups) {
  const AdaCompTask& task = work.task;
  const BinLayout layout = work.Layout();
  const int lane = static_cast<int>(threadIdx.x) % groups.width;
  const int64_t step = groups.PerBlock();
  for (int64_t first = blockIdx.x * step; first < layout.num_bins; first += gridDim.x * step) {
    const GpuBin bin(layout, groups, first);
    uint32_t highest = 0;
    for (int64_t i = bin.begin + lane; i < bin.begin + bin.size; i += groups.width) {
      const float g = task.residue[i] + task.gradient[i];
      task.new_residue[i] = g;
      highest = GreatestOf()(highest, MagnitudeBits(g));
    }
    highest = ScanGroups<GreatestOf>(highest, groups.width).total;
    int32_t count = 0;
    for (int64_t i = bin.begin + lane; i < bin.begin + bin.size; i += groups.width) {
      count += IsElementSent<kTwice>(task, i, highest);
    }
    count = ScanGroups<SumOf>(count, groups.width).total;
    if (lane == 0 && bin.size > 0) {
      memcpy(&work.maxima[bin.index], &highest, sizeof(highest));
      work.counts[bin.index] = count;
      if (!IsFiniteMagnitude(highest)) atomicOr(&work.summary->not_finite, 1u);
    }
  }
}

// The power of two of a float's lowest bit that is set; large for 0.
LOWPREC_DEVICE int LowestBit(uint32_t magnitude) {
  if (magnitude == 0) return 1000;
  const int exponent = static_cast<int>(magnitude >> 23);
  const uint32_t significand = (magnitude & 0x7FFFFFu) | (exponent > 0 ? 1u << 23 : 0);
  return (exponent > 1 ? exponent : 1) - 150 + TrailingZeros(significand);
}

// The codes of a run of empty bins, as PlainCode::PutEmptyBins has them.
LOWPREC_DEVICE int32_t CountEmptyCodes(const GpuAdaComp& work, int32_t empty, bool last) {
  int32_t codes = 0;
  if (work.Bytes()) {
    PlainCode<uint8_t>(work.task.bin_size).PutEmptyBins(empty, last, [&](uint8_t) { ++codes; });
  } else {
    PlainCode<uint16_t>(work.task.bin_size).PutEmptyBins(empty, last, [&](uint16_t) { ++codes; });
  }
  return codes;
}

__global__ void AdaCompPlaceKernel(GpuAdaComp work) {
  const BinLayout layout = work.Layout();
  for (int64_t index = blockIdx.x; index < layout.num_segments; index += gridDim.x) {
    const int64_t first = index * layout.bins_per_segment;
    const int32_t bins = static_cast<int32_t>(layout.SegmentBins(index));
    double sum = 0;
    uint32_t highest = 0;
    int quantum = LowestBit(0);
    int32_t sent = 0, placed = 0, last_sending = -1;  // of the tiles before
    for (int32_t tile = 0; tile < bins; tile += kGpuThreads) {
      const int32_t bin = tile + static_cast<int32_t>(threadIdx.x);
      const bool inside = bin < bins;
      const int32_t count = inside ? work.counts[first + bin] : 0;
      const bool last = bin + 1 == bins;
      const bool ends_run = inside && count == 0 && (last || work.counts[first + bin + 1] != 0);
      if (inside) {
        const float maximum = work.maxima[first + bin];
        sum += static_cast<double>(maximum);
        highest = GreatestOf()(highest, MagnitudeBits(maximum));
        quantum = LeastOf()(quantum, LowestBit(MagnitudeBits(maximum)));
      }
      const Scanned<int32_t> sending = ScanBlock<GreatestOf>(count > 0 ? bin : -1);
      const int32_t run = ends_run ? bin - GreatestOf()(sending.inclusive, last_sending) : 0;
      int32_t codes = count;
      if (ends_run && !work.task.entropy) codes = CountEmptyCodes(work, run, last);
      const Scanned<int32_t> scanned = ScanBlock<SumOf>(codes);
      if (inside) {
        work.offsets[first + bin] = placed + scanned.inclusive - codes;
        if (ends_run) work.counts[first + bin] = -run;
      }
      sent += count;
      placed += scanned.total;
      last_sending = GreatestOf()(last_sending, sending.total);
    }
    GpuSegment segment = {};
    segment.sum = ScanBlock<SumOf>(sum).total;
    segment.highest = ScanBlock<GreatestOf>(highest).total;
    segment.quantum = ScanBlock<LeastOf>(quantum).total;
    segment.sent = ScanBlock<SumOf>(sent).total;
    const int32_t per_word = work.Bytes() ? 4 : 2;
    segment.words = work.task.entropy ? 0 : (placed + per_word - 1) / per_word;
    if (threadIdx.x == 0) work.segments[index] = segment;
  }
}

// Segments' offsets, from their words; by one block. Returns the words of all.
LOWPREC_DEVICE int64_t PlaceSegments(GpuSegment* segments, int64_t num_segments) {
  int64_t words = 0;
  for (int64_t tile = 0; tile < num_segments; tile += kGpuThreads) {
    const int64_t index = tile + threadIdx.x;
    const bool inside = index < num_segments;
    const int64_t own = inside ? segments[index].words : 0;
    const Scanned<int64_t> scanned = ScanBlock<SumOf>(own);
    if (inside) segments[index].offset = words + scanned.inclusive - own;
    words += scanned.total;
  }
  return words;
}

// The float64 sum of all maxima in the bins' order; by one block.
LOWPREC_DEVICE double SumInOrder(const float* maxima, int64_t num_bins) {
  LOWPREC_SHARED float tile[kGpuThreads];
  double sum = 0;
  for (int64_t first = 0; first < num_bins; first += kGpuThreads) {
    const int64_t bin = first + threadIdx.x;
    __syncthreads();
    tile[threadIdx.x] = bin < num_bins ? maxima[bin] : 0;
    __syncthreads();
    if (threadIdx.x == 0) {
      for (int i = 0; i < kGpuThreads; ++i) sum += static_cast<double>(tile[i]);
    }
  }
  return sum;
}

__global__ void AdaCompCombineKernel(GpuAdaComp work) {
  const BinLayout layout = work.Layout();
  double sum = 0;
  uint32_t highest = 0;
  int quantum = LowestBit(0);
  int64_t sent = 0;
  for (int64_t tile = 0; tile < layout.num_segments; tile += kGpuThreads) {
    const int64_t index = tile + threadIdx.x;
    const bool inside = index < layout.num_segments;
    const GpuSegment segment = inside ? work.segments[index] : GpuSegment{};
    if (inside) {
      sum += segment.sum;
      highest = GreatestOf()(highest, segment.highest);
      quantum = LeastOf()(quantum, segment.quantum);
    }
    const Scanned<int64_t> scanned = ScanBlock<SumOf>(segment.sent);
    if (inside) work.segments[index].first = sent + scanned.inclusive - segment.sent;
    sent += scanned.total;
  }
  const int64_t words = PlaceSegments(work.segments, layout.num_segments);
  sum = ScanBlock<SumOf>(sum).total;
  highest = ScanBlock<GreatestOf>(highest).total;
  quantum = ScanBlock<LeastOf>(quantum).total;
  // The sum is below 2^CeilLog2(bins) * 2^exponent. Where 53 bits hold that in units of 2^quantum,
  // all sums on the way are exact, in any order; elsewhere the order decides the roundings.
  const int exponent = static_cast<int>(highest >> 23) - 126;
  const bool exact = CeilLog2(layout.num_bins) + exponent - quantum <= 53;
  if (!exact) sum = SumInOrder(work.maxima, layout.num_bins);
  if (threadIdx.x == 0) {
    work.summary->scale = MeanOfMaxima(sum, layout.num_bins);
    work.summary->sent = sent;
    work.summary->words = words;
  }
}

// Where Send puts plain codes.
template <typename Code>
struct PlainCodes {
  uint32_t* words;  // of the first segment
  PlainCode<Code> plain;

  LOWPREC_DEVICE Code* Of(const GpuSegment& segment) const {
    return reinterpret_cast<Code*>(words + segment.offset);
  }
  // `empty`: the run before, if it is a bin's first.
  LOWPREC_DEVICE void Put(const GpuSegment& segment, int32_t at, int64_t, int64_t index,
                          bool negative, bool first, int32_t empty) const {
    const uint32_t selected = static_cast<uint32_t>(index) | (negative ? kSelectedSign : 0u) |
                              (first ? kSelectedFirst : 0u);
    Of(segment)[at] = plain.OfFirst(selected, empty);
  }
  LOWPREC_DEVICE void PutEmpty(const GpuSegment& segment, int32_t at, int32_t empty,
                               bool last) const {
    Code* to = Of(segment) + at;
    plain.PutEmptyBins(empty, last, [&to](Code code) { *to++ = code; });
  }
};

// Where it puts positions, to be coded afterwards.
struct PositionList {
  uint32_t* list;

  LOWPREC_DEVICE void Put(const GpuSegment& segment, int32_t at, int64_t bin_begin, int64_t index,
                          bool negative, bool, int32_t) const {
    list[segment.first + at] =
        static_cast<uint32_t>(bin_begin + index) | (negative ? 0x80000000u : 0u);
  }
  LOWPREC_DEVICE void PutEmpty(const GpuSegment&, int32_t, int32_t, bool) const {}
};

template <bool kTwice, typename Out>
__global__ void AdaCompSendKernel(GpuAdaComp work, BinGroups groups, Out out) {
  const AdaCompTask& task = work.task;
  const BinLayout layout = work.Layout();
  const float scale = work.summary->scale;
  const int lane = static_cast<int>(threadIdx.x) % groups.width;
  const int64_t step = groups.PerBlock();
  for (int64_t first = blockIdx.x * step; first < layout.num_bins; first += gridDim.x * step) {
    const GpuBin bin(layout, groups, first);
    // Elements next to each other, so that the groups' order is the elements'.
    const int64_t piece = (bin.size + groups.width - 1) / groups.width;
    const int64_t begin = LeastOf()(lane * piece, bin.size);
    const int64_t end = LeastOf()(begin + piece, bin.size);
    const uint32_t highest = bin.size > 0 ? MagnitudeBits(work.maxima[bin.index]) : 0;
    int32_t count = 0;
    for (int64_t i = begin; i < end; ++i) {
      count += IsElementSent<kTwice>(task, bin.begin + i, highest);
    }
    int32_t rank = ScanGroups<SumOf>(count, groups.width).inclusive - count;
    if (bin.size == 0) continue;
    const int64_t index = bin.index / layout.bins_per_segment;
    const int64_t in_segment = bin.index % layout.bins_per_segment;
    const GpuSegment segment = work.segments[index];
    const int32_t offset = work.offsets[bin.index];
    for (int64_t i = begin; count > 0 && i < end; ++i) {
      const int64_t at = bin.begin + i;
      if (!IsElementSent<kTwice>(task, at, highest)) continue;
      const float g = task.new_residue[at];
      const bool opens = rank == 0;
      const int32_t before = opens && in_segment > 0 ? work.counts[bin.index - 1] : 0;
      out.Put(segment, offset + rank, in_segment * layout.bin_size, i, g < 0, opens,
              before < 0 ? -before : 0);
      task.new_residue[at] = ResidueOfSent(g, scale);
      ++rank;
    }
    const int32_t own = work.counts[bin.index];
    if (lane == 0 && own < 0) {
      out.PutEmpty(segment, offset, -own, in_segment + 1 == layout.SegmentBins(index));
    }
  }
}

// The gap before element i of a segment's list.
LOWPREC_DEVICE uint32_t GapBefore(const uint32_t* list, int64_t i) {
  constexpr uint32_t kPosition = 0x7FFFFFFFu;
  const uint32_t position = list[i] & kPosition;
  return i == 0 ? position : position - (list[i - 1] & kPosition) - 1;
}

__global__ void AdaCompMeasureKernel(GpuAdaComp work) {
  LOWPREC_SHARED uint32_t shifted[kMaxRiceBits + 1];
  const BinLayout layout = work.Layout();
  for (int64_t index = blockIdx.x; index < layout.num_segments; index += gridDim.x) {
    GpuSegment* segment = &work.segments[index];
    const uint32_t* list = work.list + segment->first;
    __syncthreads();
    if (threadIdx.x <= kMaxRiceBits) shifted[threadIdx.x] = 0;
    __syncthreads();
    uint32_t own[kMaxRiceBits + 1] = {};  // gaps add up to less than 2^17
    for (int64_t i = threadIdx.x; i < segment->sent; i += kGpuThreads) {
      const uint32_t gap = GapBefore(list, i);
      for (int k = 0; k <= kMaxRiceBits; ++k) own[k] += gap >> k;
    }
    for (int k = 0; k <= kMaxRiceBits; ++k) atomicAdd(&shifted[k], own[k]);
    __syncthreads();
    if (threadIdx.x == 0) {
      const RiceCost cost = CheapestRice(shifted, segment->sent);
      segment->rice_bits = cost.rice_bits;
      segment->words = (cost.bits + 31) / 32;
    }
  }
}

__global__ void AdaCompPlaceWordsKernel(GpuAdaComp work) {
  const int64_t words = PlaceSegments(work.segments, work.Layout().num_segments);
  if (threadIdx.x == 0) work.summary->words = words;
}

// ORs `count` <= 32 bits in from bit `at` on.
LOWPREC_DEVICE void OrBits(uint32_t* words, int64_t at, uint32_t bits) {
  const uint64_t shifted = static_cast<uint64_t>(bits) << at % 32;
  atomicOr(&words[at / 32], static_cast<uint32_t>(shifted));
  if (shifted >> 32 != 0) atomicOr(&words[at / 32 + 1], static_cast<uint32_t>(shifted >> 32));
}

// words: of the first segment, all 0.
__global__ void AdaCompWriteKernel(GpuAdaComp work, uint32_t* words) {
  const BinLayout layout = work.Layout();
  for (int64_t index = blockIdx.x; index < layout.num_segments; index += gridDim.x) {
    const GpuSegment segment = work.segments[index];
    const uint32_t* list = work.list + segment.first;
    int64_t written = 0;
    for (int64_t tile = 0; tile < segment.sent; tile += kGpuThreads) {
      const int64_t i = tile + threadIdx.x;
      const bool inside = i < segment.sent;
      const uint32_t gap = inside ? GapBefore(list, i) : 0;
      const int64_t zeros = gap >> segment.rice_bits;
      const int64_t length = inside ? zeros + segment.rice_bits + 2 : 0;
      const Scanned<int64_t> scanned = ScanBlock<SumOf>(length);
      if (inside) {
        const uint32_t low = gap & ((1u << segment.rice_bits) - 1);
        const uint32_t tail = 1u | list[i] >> 31 << 1 | low << 2;
        OrBits(words + segment.offset, written + scanned.inclusive - length + zeros, tail);
      }
      written += scanned.total;
    }
  }
}

// The header and the segment table; the checksum is 0 still.
__global__ void AdaCompFinishKernel(GpuAdaComp work, PacketHeader header, uint32_t* packet) {
  const int64_t segments = header.skip ? 0 : work.Layout().num_segments;
  if (segments > 0) header.scale = work.summary->scale;
  const int64_t thread = int64_t{blockIdx.x} * kGpuThreads + threadIdx.x;
  if (thread == 0) WritePacketHeader(header, packet);
  for (int64_t i = thread; i < segments; i += int64_t{gridDim.x} * kGpuThreads) {
    packet[header.num_words() + i] =
        SegmentEntry(work.segments[i].words, work.segments[i].rice_bits);
  }
}

// Adds the mixed words of a packet to *sum, word 1 taken as 0.
__global__ void AdaCompChecksumKernel(const uint32_t* packet, int64_t num_words, uint32_t* sum) {
  uint32_t own = 0;
  for (int64_t i = int64_t{blockIdx.x} * kGpuThreads + threadIdx.x; i < num_words;
       i += int64_t{gridDim.x} * kGpuThreads) {
    own += MixWord(i == 1 ? 0 : packet[i], static_cast<uint32_t>(i));
  }
  const uint32_t all = ScanBlock<SumOf>(own).total;
  if (threadIdx.x == 0) atomicAdd(sum, all);
}

template <typename T>
__global__ void AdaCompFillKernel(T* to, int64_t n, T value) {
  for (int64_t i = int64_t{blockIdx.x} * kGpuThreads + threadIdx.x; i < n;
       i += int64_t{gridDim.x} * kGpuThreads) {
    to[i] = value;
  }
}

template <typename T>
__global__ void AdaCompCopyKernel(const T* from, T* to, int64_t n) {
  for (int64_t i = int64_t{blockIdx.x} * kGpuThreads + threadIdx.x; i < n;
       i += int64_t{gridDim.x} * kGpuThreads) {
    to[i] = from[i];
  }
}

// ---- the decoder --------------------------------------------------------------------------------

// A packet whose header and segment table are sound.
struct GpuPacket {
  const uint32_t* words;
  PacketHeader header;
  const int64_t* offsets;  // of each segment's words
  int64_t* counts;         // what each segment sends, or -1 if it is corrupt; later: the sum before

  LOWPREC_HD BinLayout Layout() const { return {header.num_elements, header.bin_size}; }
  LOWPREC_DEVICE uint32_t Entry(int64_t segment) const {
    return words[header.num_words() + segment];
  }
};

// One thread per segment, by the functions that the CPU's kernel calls: codes are read one after
// the other.
__global__ void AdaCompCheckKernel(GpuPacket packet) {
  const BinLayout layout = packet.Layout();
  for (int64_t i = blockIdx.x; i < layout.num_segments; i += gridDim.x) {
    packet.counts[i] = CheckSegment(packet.header, packet.Entry(i),
                                    packet.words + packet.offsets[i], layout.SegmentElements(i));
  }
}

// list: positions in the segment, the sign in bit 31.
__global__ void AdaCompListKernel(GpuPacket packet, uint32_t* list) {
  const BinLayout layout = packet.Layout();
  for (int64_t i = blockIdx.x; i < layout.num_segments; i += gridDim.x) {
    uint32_t* out = list + packet.counts[i];
    WalkSegment(packet.header, packet.Entry(i), packet.words + packet.offsets[i],
                layout.SegmentElements(i), [&out](int64_t position, uint32_t sign) {
                  *out++ = static_cast<uint32_t>(position) | sign;
                });
  }
}

// A block per segment. No position comes twice.
__global__ void AdaCompAddKernel(GpuPacket packet, const uint32_t* list, float* y) {
  const BinLayout layout = packet.Layout();
  for (int64_t segment = blockIdx.x; segment < layout.num_segments; segment += gridDim.x) {
    const int64_t end =
        segment + 1 < layout.num_segments ? packet.counts[segment + 1] : packet.header.sent;
    for (int64_t i = packet.counts[segment] + threadIdx.x; i < end; i += kGpuThreads) {
      float* to = &y[layout.SegmentBegin(segment) + (list[i] & 0x7FFFFFFFu)];
      *to += list[i] >> 31 != 0 ? -packet.header.scale : packet.header.scale;
    }
  }
}

LOWPREC_END_NAMESPACE

#endif  // TF_LOWPREC_CC_KERNELS_ADACOMP_GPU_H_
