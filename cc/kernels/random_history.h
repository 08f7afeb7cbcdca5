// The random words of long sums, from those before them.
//
// A generator's step is a linear map T over GF(2), so that its states obey every recurrence whose
// polynomial T is a root of: of xorshift's (13, 17, 5) the one of degree 32 that is T's own, and
// all multiples of it. One has six terms only,
//   x[n] = x[n - 31] ^ x[n - 83] ^ x[n - 130] ^ x[n - 141] ^ x[n - 179],
// and holds for the 16 bits of a state that are used by themselves. So two elements share a lane,
// and a word is five loads and four XORs (AVX-512: two) for both in place of six instructions for
// each, of which three are shifts.
#ifndef TF_LOWPREC_CC_KERNELS_RANDOM_HISTORY_H_
#define TF_LOWPREC_CC_KERNELS_RANDOM_HISTORY_H_

#include <cstdlib>

#include "cc/kernels/tile_shape.h"

LOWPREC_BEGIN_NAMESPACE

constexpr int kShorterLags[] = {31, 83, 130, 141}, kLongestLag = 179;

// The words of a tile's latest steps, in kParts parts, as its rows are accumulated. A step is a
// term of the sums, or the end of a chunk. Two rows that follow each other share words, the first
// one's bits are the upper halves.
struct RandomHistory {
  static constexpr int kStepWords = StochasticShape::kSums / 2 * FloatLanes::kLanes;
  static constexpr int kParts = kRows / StochasticShape::kRows;
  static constexpr int64_t kMostSteps = 1280;  // that are kept: 240 KiB (AVX2)

  uint32_t* words = nullptr;  // [kParts][kMostSteps][kStepWords], once there was need of it
  int64_t steps = 0;          // that are known

  RandomHistory() = default;
  RandomHistory(const RandomHistory&) = delete;
  RandomHistory& operator=(const RandomHistory&) = delete;
  ~RandomHistory() { free(words); }

  // Whether there is room, once it was asked for.
  bool Allocate() {
    constexpr size_t kSize = sizeof(uint32_t) * kParts * kMostSteps * kStepWords;
    if (words == nullptr) words = static_cast<uint32_t*>(aligned_alloc(64, kSize));
    return words != nullptr;
  }
  // Terms that there is room for after Forget, wherever chunks end among them.
  static int64_t MostTerms(int64_t chunk) {
    // n terms may end n / chunk chunks, rounded up, and one that is shorter.
    constexpr int64_t kRoom = kMostSteps - kLongestLag - 2;
    const int64_t length = chunk > 0 ? Min(chunk, kRoom) : kRoom;
    return kRoom * length / (length + 1);
  }
  // The words of the next step.
  uint32_t* Next(int part) const { return words + (part * kMostSteps + steps) * kStepWords; }
  // Makes room by forgetting all but the last kLongestLag steps.
  void Forget() {
    for (int part = 0; part < kParts; ++part) {
      uint32_t* const to = words + part * kMostSteps * kStepWords;
      const uint32_t* const from = Next(part) - kLongestLag * kStepWords;
      for (int i = 0; i < kLongestLag * kStepWords; i += FloatLanes::kLanes) {
        FloatLanes::StoreBits(to + i, FloatLanes::LoadBits(from + i));
      }
    }
    steps = kLongestLag;
  }
};

LOWPREC_END_NAMESPACE

#endif  // TF_LOWPREC_CC_KERNELS_RANDOM_HISTORY_H_
