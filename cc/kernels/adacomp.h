// AdaComp's encoder and decoder outside TensorFlow: what the ops' kernels call, once per segment.
#ifndef TF_LOWPREC_CC_KERNELS_ADACOMP_H_
#define TF_LOWPREC_CC_KERNELS_ADACOMP_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

namespace tf_lowprec {

// Plain data shared with every instruction set's copy of the loops.
struct AdaCompTask {
  const float* gradient = nullptr;
  const float* residue = nullptr;
  float* new_residue = nullptr;  // not one of the inputs
  int64_t num_elements = 0;
  int bin_size = 1;
  float soft_threshold = 2;
  bool entropy = false;
};

// The elements selected in one segment, and room for more.
struct AdaCompSegment {
  std::vector<uint16_t> counts;          // per bin
  std::unique_ptr<uint16_t[]> elements;  // index in the bin, bit 14: negative
  int64_t capacity = 0, size = 0;
  uint32_t entry = 0;  // its place in the segment table
  bool finite = true;
};

// Selects bins [begin, end) of a segment: writes G to new_residue, the bins' maxima, and what is
// sent. Stops early at a bin that might not fit into `capacity` (returns it) or that is not finite.
using AdaCompSelectFn = int64_t (*)(const AdaCompTask& task, int64_t first_bin, int64_t begin,
                                    int64_t end, AdaCompSegment* segment, float* maxima);
// Sets `entry` of a segment that was selected in full.
using AdaCompMeasureFn = void (*)(const AdaCompTask& task, AdaCompSegment* segment);

struct AdaCompLoops {
  AdaCompSelectFn select;
  AdaCompMeasureFn measure;
};

// The fastest copy that this CPU runs, or the one that TF_LOWPREC_ISA names.
AdaCompLoops ChooseAdaComp();

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
  void SelectSegment(int64_t segment);

  const AdaCompTask task_;
  const AdaCompLoops loops_;
  const AdaCompRun run_;
  std::vector<float> maxima_;
  std::vector<AdaCompSegment> segments_;
  bool finite_ = true;
  float scale_ = 0;
  int64_t sent_ = 0, num_words_ = 0;
};

// What is wrong with a packet of `num_words` words for a tensor of `num_elements`, or nullptr.
const char* CheckAdaCompPacket(const uint32_t* packet, int64_t num_words, int64_t num_elements,
                               const AdaCompRun& run);

// y = (first ? 0 : y) + what a sound packet sends; NaN everywhere for a skip packet.
void AddAdaCompPacket(const uint32_t* packet, bool first, float* y, const AdaCompRun& run);

}  // namespace tf_lowprec

#endif  // TF_LOWPREC_CC_KERNELS_ADACOMP_H_
