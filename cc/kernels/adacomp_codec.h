// AdaComp's encoder and decoder outside TensorFlow: what the ops' kernels call.
#ifndef TF_LOWPREC_CC_KERNELS_ADACOMP_CODEC_H_
#define TF_LOWPREC_CC_KERNELS_ADACOMP_CODEC_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "cc/kernels/adacomp.h"
#include "cc/numerics/adacomp_codes.h"
#include "cc/numerics/adacomp_packet.h"

LOWPREC_BEGIN_NAMESPACE
struct GpuAdaComp;  // adacomp_gpu.h
struct GpuPacket;
LOWPREC_END_NAMESPACE

namespace tf_lowprec {

// work(begin, end) over [0, total), in any split; cost in CPU cycles per unit.
using AdaCompRun =
    std::function<void(int64_t total, int64_t cost, const std::function<void(int64_t, int64_t)>&)>;

// The encoder, in two steps, since the packet's length shows only in between. Neither the packet
// nor the residue depends on how `run` splits the work.
class AdaCompEncoder {
 public:
  AdaCompEncoder(const AdaCompTask& task, const AdaCompLoops& loops, AdaCompRun run);
  // Selects. Returns the packet's length in words.
  int64_t Select();
  // Writes the packet, and takes what it sends out of new_residue.
  void Write(uint32_t* packet);

 private:
  // A segment and what its pointers point to.
  struct Owned {
    AdaCompSegment segment;
    std::unique_ptr<uint16_t[]> codes;
    void Grow(int64_t capacity);
  };

  void SelectSegment(int64_t index);

  const AdaCompTask task_;
  const AdaCompLoops loops_;
  const AdaCompRun run_;
  std::vector<float> maxima_;
  std::vector<Owned> segments_;
  PacketHeader header_;
  int64_t num_words_ = 0;
};

// What CheckAdaCompPacket may say beyond CheckPacketHeader.
constexpr const char* kForAnotherNumber = "it is for another number of elements";
constexpr const char* kSegmentUnsound = "a segment's codes make no sense";
constexpr const char* kSendsAnotherNumber = "it sends another number of elements than it claims";

// What is wrong with a packet of `num_words` words for a tensor of `num_elements`, or nullptr.
const char* CheckAdaCompPacket(const uint32_t* packet, int64_t num_words, int64_t num_elements,
                               const AdaCompLoops& loops, const AdaCompRun& run);

// y = (first ? 0 : y) + what a sound packet sends; NaN everywhere for a skip packet.
void AddAdaCompPacket(const uint32_t* packet, bool first, float* y, const AdaCompLoops& loops,
                      const AdaCompRun& run);

// Device memory of so many bytes, valid for as long as the encoder or decoder that asked for it and
// the kernels that it launched; nullptr if there is none.
using GpuAllocate = std::function<void*(int64_t bytes)>;

// The same on a CUDA stream (a cudaStream_t) and device memory; in the library if it was built with
// nvcc. Bits and packets are those of AdaCompEncoder. The host waits for the stream in Select.
class AdaCompGpuEncoder {
 public:
  AdaCompGpuEncoder(const AdaCompTask& task, GpuAllocate allocate, void* stream);
  ~AdaCompGpuEncoder();
  // Returns the packet's length in words, or -1 if there is no memory or the GPU failed.
  int64_t Select();
  void Write(uint32_t* packet);
  // The same into host memory, which is written when it returns: true, unless as Select's -1.
  bool WriteToHost(uint32_t* packet);

 private:
  template <typename T>
  T* Allocate(int64_t count);

  const GpuAllocate allocate_;
  void* const stream_;
  const std::unique_ptr<GpuAdaComp> work_;
  PacketHeader header_;
  int64_t num_words_ = 0;
};

// A packet's copy in device memory, or nullptr if there is none left or the GPU failed. The host's
// is read until the stream has come here.
const uint32_t* PutPacketOnGpu(const uint32_t* packet, int64_t num_words,
                               const GpuAllocate& allocate, void* stream);

// CheckAdaCompPacket and AddAdaCompPacket for a packet in device memory. The host waits for the
// stream in Check.
class AdaCompGpuDecoder {
 public:
  AdaCompGpuDecoder(const uint32_t* packet, int64_t num_words, GpuAllocate allocate, void* stream);
  ~AdaCompGpuDecoder();
  // What is wrong with it for a tensor of `num_elements`, or nullptr.
  const char* Check(int64_t num_elements);
  // y <- y and what it sends, or that alone if `first`. Returns why it could not start, or nullptr.
  const char* Add(bool first, float* y);

 private:
  const GpuAllocate allocate_;
  void* const stream_;
  const int64_t num_words_;
  const std::unique_ptr<GpuPacket> packet_;
  uint32_t* list_ = nullptr;
};

}  // namespace tf_lowprec

#endif  // TF_LOWPREC_CC_KERNELS_ADACOMP_CODEC_H_
