// The encoder's loops over one segment of a gradient, for each instruction set.
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

// The room that a bin of n elements needs: some codes more, since up to 16 are written at a time.
constexpr int64_t AdaCompRoom(int64_t n) { return n + 16; }

struct AdaCompLoops {
  AdaCompSelectFn select;
  AdaCompMeasureFn measure;
};

// The fastest copy that this CPU runs, or the one that TF_LOWPREC_ISA names.
AdaCompLoops ChooseAdaComp();

}  // namespace tf_lowprec

#endif  // TF_LOWPREC_CC_KERNELS_ADACOMP_H_
