// Philox 4x32-10, the counter-based generator of Salmon et al., "Parallel Random Numbers: As Easy
// as 1, 2, 3", SC 2011. Counter and key determine the output: no state, any thread count.
#ifndef TF_LOWPREC_CC_NUMERICS_PHILOX_H_
#define TF_LOWPREC_CC_NUMERICS_PHILOX_H_

#include <cstdint>

#include "cc/numerics/macros.h"

LOWPREC_BEGIN_NAMESPACE

struct PhiloxKey {
  uint32_t k0, k1;
};

struct PhiloxWords {
  uint32_t w[4];
};

// One block: ten rounds over a 128-bit counter (c0 lowest).
LOWPREC_HD PhiloxWords Philox(uint32_t c0, uint32_t c1, uint32_t c2, uint32_t c3, PhiloxKey key) {
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = uint64_t{0xD2511F53u} * c0;
    const uint64_t p1 = uint64_t{0xCD9E8D57u} * c2;
    const uint32_t n0 = static_cast<uint32_t>(p1 >> 32) ^ c1 ^ key.k0;
    const uint32_t n2 = static_cast<uint32_t>(p0 >> 32) ^ c3 ^ key.k1;
    c1 = static_cast<uint32_t>(p1);
    c3 = static_cast<uint32_t>(p0);
    c0 = n0;
    c2 = n2;
    key.k0 += 0x9E3779B9u;
    key.k1 += 0xBB67AE85u;
  }
  return {{c0, c1, c2, c3}};
}

// The random word of tensor element `index` in stream `stream`: counter (index / 4, stream), first
// word first.
LOWPREC_HD uint32_t RandomWord(uint64_t index, uint64_t stream, PhiloxKey key) {
  const uint64_t block = index / 4;
  return Philox(static_cast<uint32_t>(block), static_cast<uint32_t>(block >> 32),
                static_cast<uint32_t>(stream), static_cast<uint32_t>(stream >> 32), key)
      .w[index % 4];
}

LOWPREC_END_NAMESPACE

#endif  // TF_LOWPREC_CC_NUMERICS_PHILOX_H_
