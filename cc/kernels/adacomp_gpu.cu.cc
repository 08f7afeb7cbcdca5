// Compiled by nvcc, without TensorFlow's headers: they would take it a minute.
#include "cc/kernels/adacomp_gpu.h"

#include <algorithm>
#include <limits>
#include <utility>
#include <vector>

#include "cc/kernels/adacomp_codec.h"

namespace tf_lowprec {

namespace {

constexpr const char* kGpuFailed = "the GPU failed, or has too little memory, while it was checked";

template <typename T>
void Fill(T* to, int64_t n, T value, void* stream) {
  if (n == 0) return;
  LOWPREC_LAUNCH((AdaCompFillKernel<T>), GpuBlocksFor(n), kGpuThreads, stream, to, n, value);
}

void AddChecksum(const uint32_t* packet, int64_t num_words, uint32_t* sum, void* stream) {
  LOWPREC_LAUNCH_SYNCHRONIZED(AdaCompChecksumKernel, GpuBlocksFor(num_words), kGpuThreads, stream,
                              packet, num_words, sum);
}

template <typename Out>
void Send(const GpuAdaComp& work, const Out& out, void* stream) {
  const BinGroups groups(work.task.bin_size);
  const unsigned int blocks = GpuBlocks(work.Layout().num_bins / groups.PerBlock() + 1);
  if (work.task.soft_threshold == 2.0f) {
    LOWPREC_LAUNCH_SYNCHRONIZED((AdaCompSendKernel<true, Out>), blocks, kGpuThreads, stream, work,
                                groups, out);
  } else {
    LOWPREC_LAUNCH_SYNCHRONIZED((AdaCompSendKernel<false, Out>), blocks, kGpuThreads, stream, work,
                                groups, out);
  }
}

}  // namespace

AdaCompGpuEncoder::AdaCompGpuEncoder(const AdaCompTask& task, GpuAllocate allocate, void* stream)
    : allocate_(std::move(allocate)), stream_(stream), work_(new GpuAdaComp{}) {
  work_->task = task;
  header_.num_elements = task.num_elements;
  header_.bin_size = task.bin_size;
  header_.entropy = task.entropy;
}

AdaCompGpuEncoder::~AdaCompGpuEncoder() = default;

template <typename T>
T* AdaCompGpuEncoder::Allocate(int64_t count) {
  return static_cast<T*>(allocate_(count * static_cast<int64_t>(sizeof(T))));
}

int64_t AdaCompGpuEncoder::Select() {
  const BinLayout layout = work_->Layout();
  num_words_ = header_.num_words();
  if (layout.num_bins == 0) return num_words_;
  GpuAdaComp& work = *work_;
  work.maxima = Allocate<float>(layout.num_bins);
  work.counts = Allocate<int32_t>(layout.num_bins);
  work.offsets = Allocate<int32_t>(layout.num_bins);
  work.segments = Allocate<GpuSegment>(layout.num_segments);
  work.summary = Allocate<GpuSummary>(1);
  if (work.maxima == nullptr || work.counts == nullptr || work.offsets == nullptr ||
      work.segments == nullptr || work.summary == nullptr) {
    return -1;
  }
  Fill(work.summary, 1, GpuSummary{}, stream_);
  const BinGroups groups(work.task.bin_size);
  const unsigned int blocks = GpuBlocks(layout.num_bins / groups.PerBlock() + 1);
  if (work.task.soft_threshold == 2.0f) {
    LOWPREC_LAUNCH_SYNCHRONIZED(AdaCompSelectKernel<true>, blocks, kGpuThreads, stream_, work,
                                groups);
  } else {
    LOWPREC_LAUNCH_SYNCHRONIZED(AdaCompSelectKernel<false>, blocks, kGpuThreads, stream_, work,
                                groups);
  }
  LOWPREC_LAUNCH_SYNCHRONIZED(AdaCompPlaceKernel, GpuBlocks(layout.num_segments), kGpuThreads,
                              stream_, work);
  LOWPREC_LAUNCH_SYNCHRONIZED(AdaCompCombineKernel, 1u, kGpuThreads, stream_, work);
  GpuSummary summary;
  if (!FetchFromGpu(&summary, work.summary, sizeof(summary), stream_)) return -1;
  header_.skip = summary.not_finite != 0;
  if (header_.skip) return num_words_;
  header_.sent = summary.sent;
  if (work.task.entropy) {
    work.list = Allocate<uint32_t>(std::max<int64_t>(summary.sent, 1));
    if (work.list == nullptr) return -1;
    Send(work, PositionList{work.list}, stream_);
    LOWPREC_LAUNCH_SYNCHRONIZED(AdaCompMeasureKernel, GpuBlocks(layout.num_segments), kGpuThreads,
                                stream_, work);
    LOWPREC_LAUNCH_SYNCHRONIZED(AdaCompPlaceWordsKernel, 1u, kGpuThreads, stream_, work);
    if (!FetchFromGpu(&summary, work.summary, sizeof(summary), stream_)) return -1;
  }
  return num_words_ += layout.num_segments + summary.words;
}

void AdaCompGpuEncoder::Write(uint32_t* packet) {
  const GpuAdaComp& work = *work_;
  const BinLayout layout = work.Layout();
  Fill(packet, num_words_, 0u, stream_);
  if (header_.skip) {
    LOWPREC_LAUNCH(AdaCompCopyKernel<float>, GpuBlocksFor(layout.num_elements), kGpuThreads,
                   stream_, work.task.residue, work.task.new_residue, layout.num_elements);
  } else if (layout.num_segments > 0) {
    uint32_t* const words = packet + header_.num_words() + layout.num_segments;
    if (work.task.entropy) {
      LOWPREC_LAUNCH_SYNCHRONIZED(AdaCompWriteKernel, GpuBlocks(layout.num_segments), kGpuThreads,
                                  stream_, work, words);
    } else if (work.Bytes()) {
      Send(work, PlainCodes<uint8_t>{words, PlainCode<uint8_t>(work.task.bin_size)}, stream_);
    } else {
      Send(work, PlainCodes<uint16_t>{words, PlainCode<uint16_t>(work.task.bin_size)}, stream_);
    }
  }
  LOWPREC_LAUNCH(AdaCompFinishKernel, GpuBlocksFor(layout.num_segments + 1), kGpuThreads, stream_,
                 work, header_, packet);
  AddChecksum(packet, num_words_, packet + 1, stream_);
}

bool AdaCompGpuEncoder::WriteToHost(uint32_t* packet) {
  uint32_t* const on_gpu = Allocate<uint32_t>(num_words_);
  if (on_gpu == nullptr) return false;
  Write(on_gpu);
  return FetchFromGpu(packet, on_gpu, static_cast<size_t>(num_words_) * sizeof(uint32_t), stream_);
}

const uint32_t* PutPacketOnGpu(const uint32_t* packet, int64_t num_words,
                               const GpuAllocate& allocate, void* stream) {
  const size_t bytes = static_cast<size_t>(num_words) * sizeof(uint32_t);
  void* const on_gpu = allocate(std::max<int64_t>(static_cast<int64_t>(bytes), 1));
  if (on_gpu == nullptr || !PutOnGpu(on_gpu, packet, bytes, stream)) return nullptr;
  return static_cast<const uint32_t*>(on_gpu);
}

AdaCompGpuDecoder::AdaCompGpuDecoder(const uint32_t* packet, int64_t num_words,
                                     GpuAllocate allocate, void* stream)
    : allocate_(std::move(allocate)),
      stream_(stream),
      num_words_(num_words),
      packet_(new GpuPacket{packet, {}, nullptr, nullptr}) {}

AdaCompGpuDecoder::~AdaCompGpuDecoder() = default;

const char* AdaCompGpuDecoder::Check(int64_t num_elements) {
  GpuPacket& packet = *packet_;
  // The host sees header and table, and the checksum that the device takes.
  std::vector<uint32_t> prefix(std::min(num_words_, MaxPacketPrefix(num_elements)));
  const auto fetch_prefix = [&] {
    return FetchFromGpu(prefix.data(), packet.words, prefix.size() * sizeof(uint32_t), stream_);
  };
  uint32_t sum = 0;
  if (num_words_ >= kPacketHeaderWords) {
    uint32_t* const device_sum = static_cast<uint32_t*>(allocate_(sizeof(uint32_t)));
    if (device_sum == nullptr) return kGpuFailed;
    Fill(device_sum, 1, 0u, stream_);
    AddChecksum(packet.words, num_words_, device_sum, stream_);
    if (!fetch_prefix() || !FetchFromGpu(&sum, device_sum, sizeof(sum), stream_)) {
      return kGpuFailed;
    }
    // A packet for more elements may have a longer table.
    const int64_t claimed =
        num_words_ < kWideHeaderWords
            ? 0
            : std::max<int64_t>(ParsePacketHeader(prefix.data()).num_elements, 0);
    if (claimed > num_elements) {
      prefix.resize(std::min(num_words_, MaxPacketPrefix(claimed)));
      if (!fetch_prefix()) return kGpuFailed;
    }
  }
  const char* const problem = CheckPacketHeader(prefix.data(), num_words_, [sum] { return sum; });
  if (problem != nullptr) return problem;
  packet.header = ParsePacketHeader(prefix.data());
  if (packet.header.num_elements != num_elements) return kForAnotherNumber;
  const BinLayout layout = packet.Layout();
  if (packet.header.skip || layout.num_segments == 0) return nullptr;

  const size_t bytes = static_cast<size_t>(layout.num_segments) * sizeof(int64_t);
  std::vector<int64_t> offsets(layout.num_segments), counts(layout.num_segments);
  int64_t offset = packet.header.num_words() + layout.num_segments;
  for (int64_t i = 0; i < layout.num_segments; ++i) {
    offsets[i] = offset;
    offset += SegmentWords(prefix[packet.header.num_words() + i]);
  }
  int64_t* const device_offsets = static_cast<int64_t*>(allocate_(bytes));
  packet.counts = static_cast<int64_t*>(allocate_(bytes));
  packet.offsets = device_offsets;
  if (device_offsets == nullptr || packet.counts == nullptr ||
      !PutOnGpu(device_offsets, offsets.data(), bytes, stream_)) {
    return kGpuFailed;
  }
  LOWPREC_LAUNCH(AdaCompCheckKernel, GpuBlocks(layout.num_segments), 1u, stream_, packet);
  if (!FetchFromGpu(counts.data(), packet.counts, bytes, stream_)) return kGpuFailed;
  int64_t sent = 0;
  for (int64_t& count : counts) {
    if (count < 0) return kSegmentUnsound;
    sent += std::exchange(count, sent);
  }
  if (sent != packet.header.sent) return kSendsAnotherNumber;
  list_ = static_cast<uint32_t*>(allocate_(std::max<int64_t>(sent, 1) * sizeof(uint32_t)));
  if (list_ == nullptr || !PutOnGpu(packet.counts, counts.data(), bytes, stream_)) {
    return kGpuFailed;
  }
  return nullptr;
}

const char* AdaCompGpuDecoder::Add(bool first, float* y) {
  const GpuPacket& packet = *packet_;
  const int64_t n = packet.header.num_elements;
  if (packet.header.skip) {
    Fill(y, n, std::numeric_limits<float>::quiet_NaN(), stream_);
    return LaunchError();
  }
  if (first) Fill(y, n, 0.0f, stream_);
  const unsigned int blocks = GpuBlocks(packet.Layout().num_segments);
  if (blocks == 0) return LaunchError();
  LOWPREC_LAUNCH(AdaCompListKernel, blocks, 1u, stream_, packet, list_);
  LOWPREC_LAUNCH(AdaCompAddKernel, blocks, kGpuThreads, stream_, packet, list_, y);
  return LaunchError();
}

}  // namespace tf_lowprec
