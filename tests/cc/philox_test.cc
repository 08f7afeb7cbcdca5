// Philox 4x32-10: known answers, and the bulk generator against the single word.
#include "cc/numerics/philox.h"

#include <cstdint>
#include <vector>

#include "cc/kernels/random_words.h"
#include "gtest/gtest.h"

namespace tf_lowprec {
namespace {

// Random123's kat_vectors, philox4x32 10: counter, key, words.
struct KnownAnswer {
  uint32_t counter[4];
  PhiloxKey key;
  uint32_t words[4];
};

const KnownAnswer kKnownAnswers[] = {
    {{0, 0, 0, 0}, {0, 0}, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
    {{0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff},
     {0xffffffff, 0xffffffff},
     {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
    {{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344},
     {0xa4093822, 0x299f31d0},
     {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
};

TEST(Philox, GivesTheKnownAnswers) {
  for (const KnownAnswer& known : kKnownAnswers) {
    const uint32_t* c = known.counter;
    const PhiloxWords words = Philox(c[0], c[1], c[2], c[3], known.key);
    for (int i = 0; i < 4; ++i) EXPECT_EQ(words.w[i], known.words[i]) << "word " << i;
  }
}

TEST(RandomWord, CountsFourElementsPerBlockFirstWordFirst) {
  const KnownAnswer& known = kKnownAnswers[0];
  for (int i = 0; i < 4; ++i) EXPECT_EQ(RandomWord(i, 0, known.key), known.words[i]);
  EXPECT_EQ(RandomWord(4, 0, known.key), Philox(1, 0, 0, 0, known.key).w[0]);
}

TEST(RandomWord, SplitsIndexAndStreamIntoHalves) {
  // The third known answer's stream; its block index times four would not fit 64 bits, so a
  // smaller one stands in.
  const PhiloxKey key = {0xa4093822, 0x299f31d0};
  const uint64_t stream = 0x0370734413198a2e;
  const uint64_t block = 0x05a308d3243f6a88;
  for (int i = 0; i < 4; ++i) {
    EXPECT_EQ(RandomWord(block * 4 + i, stream, key),
              Philox(0x243f6a88, 0x05a308d3, 0x13198a2e, 0x03707344, key).w[i]);
  }
}

template <int kWords>
void ExpectEqualToSingleWords(uint64_t first, uint64_t stream, PhiloxKey key) {
  std::vector<uint32_t> words(kWords);
  RandomWords<kWords>(first, stream, key, words.data());
  for (int i = 0; i < kWords; ++i) {
    ASSERT_EQ(words[i], RandomWord(first + i, stream, key)) << "element " << first + i;
  }
}

// As this file is compiled, the portable loop; quantize_test.cc runs the others.
TEST(RandomWords, EqualsRandomWord) {
  // The last ones straddle the carry into the upper half of the block index.
  for (const uint64_t first : {uint64_t{0}, uint64_t{256}, uint64_t{1} << 20,
                               (uint64_t{1} << 34) - 256, uint64_t{1} << 34, ~uint64_t{0} - 255}) {
    for (const uint64_t stream : {uint64_t{0}, uint64_t{22}, (uint64_t{7} << 32) + 21}) {
      const PhiloxKey key = {0x12345678, 0x9abcdef0};
      ExpectEqualToSingleWords<128>(first, stream, key);
      ExpectEqualToSingleWords<256>(first, stream, key);
    }
  }
}

}  // namespace
}  // namespace tf_lowprec
