// Entropy-coded segments: the parameter, the words and what is read of them are those of
// docs/adacomp.md's description, a bit at a time.
#include "cc/numerics/adacomp_rice.h"

#include <algorithm>
#include <random>
#include <vector>

#include "gtest/gtest.h"

namespace tf_lowprec {
namespace {

struct Element {
  int64_t position;
  bool sign;
  bool operator==(const Element& other) const {
    return position == other.position && sign == other.sign;
  }
};
using Elements = std::vector<Element>;
using Bits = std::vector<bool>;

Bits BitsOf(const Elements& elements, int k) {
  Bits bits;
  int64_t after = 0;
  for (const Element& element : elements) {
    const int64_t gap = element.position - after;
    bits.insert(bits.end(), static_cast<size_t>(gap >> k), false);
    bits.push_back(true);
    bits.push_back(element.sign);
    for (int i = 0; i < k; ++i) bits.push_back(gap >> i & 1);
    after = element.position + 1;
  }
  bits.resize((bits.size() + 31) / 32 * 32);
  return bits;
}

std::vector<uint32_t> WordsOf(const Bits& bits) {
  std::vector<uint32_t> words(bits.size() / 32);
  for (size_t i = 0; i < bits.size(); ++i) words[i / 32] |= uint32_t{bits[i]} << i % 32;
  return words;
}

// Whether the bits make sense.
bool Read(const Bits& bits, int k, int64_t n, Elements* elements) {
  const int64_t size = static_cast<int64_t>(bits.size());
  int64_t after = 0;
  for (int64_t at = 0;;) {
    const int64_t one = std::find(bits.begin() + at, bits.end(), true) - bits.begin();
    if (one == size) return one - at < 32;
    if (one + 2 + k > size) return false;
    int64_t gap = (one - at) << k;
    for (int i = 0; i < k; ++i) gap |= int64_t{bits[one + 2 + i]} << i;
    if (after + gap >= n) return false;
    elements->push_back({after + gap, bits[one + 1]});
    after += gap + 1;
    at = one + 2 + k;
  }
}

// Elements of a segment, some near each other and some far away.
class RandomSegment {
 public:
  RandomSegment(std::mt19937& random, int64_t max_elements) {
    bin_size = std::vector<int>{1, 50, 500, 16384}[random() % 4];
    n = 1 + random() % max_elements;
    const uint64_t near = uint64_t{1} << random() % 18, far = uint64_t{1} << random() % 17;
    const uint64_t seldom = 1 + random() % 100;
    for (int64_t i = random() % near; i < n;
         i += 1 + random() % (random() % seldom == 0 ? far : near)) {
      elements.push_back({i, random() % 2 == 0});
    }
    auto element = elements.begin();
    for (int64_t begin = 0; begin < n; begin += bin_size) {
      uint16_t first = kSelectedFirst;
      for (; element != elements.end() && element->position < begin + bin_size; ++element) {
        const int64_t index = element->position - begin;
        codes_.push_back(
            static_cast<uint16_t>(index | first | (element->sign ? kSelectedSign : 0)));
        first = 0;
      }
      if (first == 0) continue;
      codes_.push_back(0);
      ++num_empty_;
    }
  }
  Selection selection() const {
    return {codes_.data(), static_cast<int64_t>(codes_.size()), num_empty_, bin_size};
  }

  int bin_size;
  int64_t n;
  Elements elements;

 private:
  std::vector<uint16_t> codes_;
  int64_t num_empty_ = 0;
};

TEST(AdaCompRice, NoParameterHasFewerBits) {
  std::mt19937 random(1);
  int seen[kMaxRiceBits + 1] = {};
  for (int repetition = 0; repetition < 1000; ++repetition) {
    const RandomSegment segment(random, kSegmentElements);
    RiceCost best = {0, 0};
    for (int k = 0; k <= kMaxRiceBits; ++k) {
      int64_t bits = 0, after = 0;
      for (const Element& element : segment.elements) {
        bits += ((element.position - after) >> k) + k + 2;
        after = element.position + 1;
      }
      if (k == 0 || bits < best.bits) best = {k, bits};
    }
    const RiceCost found = CheapestRice(segment.selection());
    ASSERT_EQ(found.rice_bits, best.rice_bits);
    ASSERT_EQ(found.bits, best.bits);
    ++seen[best.rice_bits];
  }
  for (int k = 0; k <= kMaxRiceBits; ++k) EXPECT_GT(seen[k], 0) << k;
}

TEST(AdaCompRice, WordsAreTheBitsOneByOne) {
  std::mt19937 random(2);
  for (int repetition = 0; repetition < 4000; ++repetition) {
    const RandomSegment segment(random, 1 + random() % 5000);
    const int k = random() % (kMaxRiceBits + 1);
    const std::vector<uint32_t> want = WordsOf(BitsOf(segment.elements, k));
    std::vector<uint32_t> words(want.size());
    size_t visited = 0;
    WriteEntropy(segment.selection(), k, words.data(), [&](int64_t position) {
      ASSERT_EQ(position, segment.elements.at(visited++).position);
    });
    ASSERT_EQ(words, want);
    ASSERT_EQ(visited, segment.elements.size());
  }
}

TEST(AdaCompRice, ReadsAsBitsOneByOne) {
  std::mt19937 random(3);
  int64_t sound = 0, unsound = 0;
  for (int repetition = 0; repetition < 4000; ++repetition) {
    const RandomSegment segment(random, 1 + random() % 5000);
    const int k = random() % 4 == 0 ? random() % (kMaxRiceBits + 1)
                                    : CheapestRice(segment.selection()).rice_bits;
    for (int defect = 0; defect < 6; ++defect) {
      Bits bits = BitsOf(segment.elements, k);
      int64_t n = segment.n;
      if (!bits.empty()) {
        const size_t at = random() % bits.size();
        if (defect == 1) bits[at] = !bits[at];
        if (defect == 2) bits.resize(at / 32 * 32);
        if (defect == 3) n = 1 + random() % n;
        if (defect == 4) std::fill(bits.begin() + at, bits.end(), false);
        if (defect == 5) bits.resize(bits.size() + 32 * (random() % 3));
      }
      Elements want, visited;
      const bool makes_sense = Read(bits, k, n, &want);
      const std::vector<uint32_t> words = WordsOf(bits);
      const int64_t count = WalkEntropy(
          words.data(), static_cast<int64_t>(words.size()), k, n,
          [&](int64_t position, uint32_t sign) { visited.push_back({position, sign >> 31 != 0}); });
      ASSERT_EQ(count, makes_sense ? static_cast<int64_t>(want.size()) : -1);
      ASSERT_EQ(visited, want);
      ++(makes_sense ? sound : unsound);
    }
  }
  EXPECT_GT(sound, 5000);
  EXPECT_GT(unsound, 5000);
}

}  // namespace
}  // namespace tf_lowprec
