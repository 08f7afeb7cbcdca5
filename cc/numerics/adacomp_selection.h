// What AdaComp's encoder selected in one segment of a packet.
#ifndef TF_LOWPREC_CC_NUMERICS_ADACOMP_SELECTION_H_
#define TF_LOWPREC_CC_NUMERICS_ADACOMP_SELECTION_H_

#include <cstdint>

#include "cc/numerics/macros.h"

LOWPREC_BEGIN_NAMESPACE

// What was selected in a segment, as 16-bit codes: for each bin its elements in order (the index in
// the bin, a sign bit, and a bit that is set in the bin's first), or a 0 if it has none.
struct Selection {
  const uint16_t* codes;
  int64_t num_codes;
  int64_t num_empty;  // bins, of the codes
  int bin_size;
};

constexpr uint16_t kSelectedIndex = 0x3FFF, kSelectedSign = 0x4000, kSelectedFirst = 0x8000;

// visit(position in the segment, sign bit as bit 31) for each selected element.
template <typename Visit>
inline void ForEachSelected(const Selection& s, Visit visit) {
  int64_t begin = -s.bin_size;
  for (int64_t i = 0; i < s.num_codes; ++i) {
    const uint32_t code = s.codes[i];
    // Only one branch, and that one rarely taken: which elements are first cannot be foreseen.
    begin += s.bin_size & -static_cast<int64_t>(code >> 15);
    if (code == 0) {
      begin += s.bin_size;
    } else {
      visit(begin + (code & kSelectedIndex), (code & kSelectedSign) << 17);
    }
  }
}

LOWPREC_END_NAMESPACE

#endif  // TF_LOWPREC_CC_NUMERICS_ADACOMP_SELECTION_H_
