// The codec's loops over one segment of a gradient, for each instruction set.
#ifndef TF_LOWPREC_CC_KERNELS_ADACOMP_H_
#define TF_LOWPREC_CC_KERNELS_ADACOMP_H_

#include <cstdint>

namespace tf_lowprec {

// Plain data shared with every instruction set's copy of the loops (so: no type of an ISA's
// inline namespace in here).
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
  uint16_t* codes = nullptr;  // of a Selection: cc/numerics/adacomp_codes.h
  int64_t capacity = 0, size = 0, num_empty = 0;
  uint32_t entry = 0;  // its place in the segment table
  bool finite = true;
};

// Selects bins [begin, end) of a segment: writes G to new_residue, the bins' maxima, and what is
// sent. Stops early at a bin that might not fit into `capacity` (returns it) or that is not finite.
using AdaCompSelectFn = int64_t (*)(const AdaCompTask& task, int64_t first_bin, int64_t begin,
                                    int64_t end, AdaCompSegment* segment, float* maxima);
// Sets `entry` of a segment that was selected in full.
using AdaCompMeasureFn = void (*)(const AdaCompTask& task, AdaCompSegment* segment);

// The float64 sum of finite maxima, as if added one by one.
using AdaCompSumFn = double (*)(const float* maxima, int64_t num_bins);
// Writes a segment's codes to `words`, as long as its `entry` says, and takes what they send out of
// its part of the new residue.
using AdaCompWriteFn = void (*)(const AdaCompTask& task, const AdaCompSegment& segment, float scale,
                                uint32_t* words, float* new_residue);

// A segment of a packet, of num_elements.
struct AdaCompCoded {
  const uint32_t* words = nullptr;
  uint32_t entry = 0;
  int64_t num_elements = 0;
  int bin_size = 1;
  bool entropy = false;
  float scale = 0;
};

// The number of elements that it sends, or -1 if it is corrupt.
using AdaCompCheckFn = int64_t (*)(const AdaCompCoded& coded);
// y = (first ? 0 : y) + what it sends; it has to be sound.
using AdaCompAddFn = void (*)(const AdaCompCoded& coded, bool first, float* y);

// The room that a bin of n elements needs: some codes more, since up to 16 are written at a time.
constexpr int64_t AdaCompRoom(int64_t n) { return n + 16; }

// PacketChecksum.
using AdaCompChecksumFn = uint32_t (*)(const uint32_t* packet, int64_t num_words);

struct AdaCompLoops {
  AdaCompSelectFn select;
  AdaCompMeasureFn measure;
  AdaCompSumFn sum;
  AdaCompWriteFn write;
  AdaCompCheckFn check;
  AdaCompAddFn add;
  AdaCompChecksumFn checksum;
};

// The fastest copy that this CPU runs, or the one that TF_LOWPREC_ISA names.
AdaCompLoops ChooseAdaComp();

}  // namespace tf_lowprec

#endif  // TF_LOWPREC_CC_KERNELS_ADACOMP_H_
