// Plain segments: the blocks that reader and writer work on change nothing. The reader here is
// docs/adacomp.md's description, a code at a time.
#include "cc/numerics/adacomp_plain.h"

#include <algorithm>
#include <random>
#include <vector>

#include "cc/numerics/adacomp_packet.h"
#include "gtest/gtest.h"

namespace tf_lowprec {
namespace {

struct Read {
  bool sound = true;
  std::vector<int64_t> positions;
};

template <typename Code>
Read ReadPlain(const std::vector<Code>& codes, int64_t n, int bin_size) {
  const int field_bits = 8 * sizeof(Code) - 2, index_bits = CeilLog2(bin_size);
  const int64_t bins = (n + bin_size - 1) / bin_size;
  int64_t bin = -1, last_index = -1;
  bool in_bin = false;
  Read read;
  const auto unsound = [&read] {
    read.sound = false;
    return read;
  };
  for (size_t i = 0; i < codes.size(); ++i) {
    const int64_t field = codes[i] & ((1 << field_bits) - 1);
    const bool sign = codes[i] >> field_bits & 1, first = codes[i] >> (field_bits + 1);
    if (field == 0 && !first) {
      if (bin + 1 >= bins) {  // only zeros, to the end of the word
        if ((codes.size() - i) * sizeof(Code) >= 4) return unsound();
        for (; i < codes.size(); ++i) {
          if (codes[i] != 0) return unsound();
        }
        break;
      }
      if (sign && ++i == codes.size()) return unsound();
      bin += sign ? codes[i] + 2 : 1;
      in_bin = false;
      if (bin >= bins) return unsound();
      continue;
    }
    int64_t index = field;
    if (first) {
      index &= (int64_t{1} << index_bits) - 1;
      bin += 1 + (field >> index_bits);
      in_bin = true;
      last_index = -1;
    }
    const int64_t position = bin * bin_size + index;
    if (!in_bin || index <= last_index || index >= bin_size || position >= n) return unsound();
    last_index = index;
    read.positions.push_back(position);
  }
  if (bin + 1 < bins) return unsound();
  return read;
}

// Codes of `bins` bins, each with probability `sent` of having an element, and then of another.
std::vector<uint16_t> RandomSelection(int bin_size, int64_t bins, int64_t last_size, double sent,
                                      std::mt19937* random, int64_t* num_empty) {
  std::bernoulli_distribution more(sent), sign(0.5);
  std::vector<uint16_t> codes;
  *num_empty = 0;
  for (int64_t bin = 0; bin < bins; ++bin) {
    const int64_t size = bin + 1 == bins ? last_size : bin_size;
    uint16_t first = kSelectedFirst;
    for (int64_t index = (*random)() % size; index < size && more(*random);
         index += 1 + (*random)() % size) {
      codes.push_back(static_cast<uint16_t>(index | first | (sign(*random) ? kSelectedSign : 0)));
      first = 0;
    }
    if (first != 0) {
      codes.push_back(0);
      ++*num_empty;
    }
  }
  return codes;
}

template <typename Code>
class AdaCompPlain : public testing::Test {};
using Codes = testing::Types<uint8_t, uint16_t>;
TYPED_TEST_SUITE(AdaCompPlain, Codes);

TYPED_TEST(AdaCompPlain, BlocksReadAsCodesOneByOne) {
  using Code = TypeParam;
  std::mt19937 random(1);
  int64_t sound = 0, unsound = 0;
  for (int repetition = 0; repetition < 4000; ++repetition) {
    const bool bytes = sizeof(Code) == 1;
    const std::vector<int> sizes =
        bytes ? std::vector<int>{1, 2, 8, 33, 50, 64} : std::vector<int>{65, 128, 500, 16384};
    const int bin_size = sizes[random() % sizes.size()];
    const int64_t bins = 1 + random() % 60, last_size = 1 + random() % bin_size;
    const double sent = std::vector<double>{0.1, 0.5, 0.9, 1.0}[random() % 4];
    Selection s = {nullptr, 0, 0, bin_size};
    const auto selected = RandomSelection(bin_size, bins, last_size, sent, &random, &s.num_empty);
    s.codes = selected.data();
    s.num_codes = static_cast<int64_t>(selected.size());
    const int64_t n = (bins - 1) * bin_size + last_size;

    std::vector<uint32_t> words(PlainWords<Code>(s));
    WritePlain<Code>(s, words.data(), static_cast<int64_t>(words.size()));
    std::vector<Code> codes(words.size() * 4 / sizeof(Code));
    memcpy(codes.data(), words.data(), words.size() * 4);
    std::vector<int64_t> want;
    ForEachSelected(s, [&want](int64_t position, uint32_t) { want.push_back(position); });
    const Read written = ReadPlain(codes, n, bin_size);
    ASSERT_TRUE(written.sound);
    ASSERT_EQ(written.positions, want);

    for (int defect = 0; defect < 9; ++defect) {
      std::vector<Code> broken = codes;
      // Swaps, bits, and codes' places: much of it stays sound.
      if (defect > 0 && !broken.empty()) {
        Code* const at = &broken[random() % broken.size()];
        if (defect < 4) *at ^= static_cast<Code>(1 << random() % (8 * sizeof(Code)));
        if (defect == 4) *at = 0;
        if (defect == 5) std::swap(*at, broken[random() % broken.size()]);
        if (defect == 6) *at = PlainCode<Code>::kEmptyRun;
        if (defect == 7) *at = static_cast<Code>(random());
        if (defect == 8) std::fill(broken.begin(), broken.begin() + (at - broken.data()), 0);
      }
      if (!broken.empty()) memcpy(words.data(), broken.data(), words.size() * 4);
      const Read read = ReadPlain(broken, n, bin_size);
      const int64_t count = read.sound ? static_cast<int64_t>(read.positions.size()) : -1;
      ASSERT_EQ(CheckPlain<Code>(words.data(), words.size(), n, bin_size), count);
      ++(read.sound ? sound : unsound);
      if (!read.sound) continue;
      std::vector<int64_t> visited;
      WalkPlain<Code>(words.data(), words.size(), n, bin_size,
                      [&visited](int64_t position, uint32_t) { visited.push_back(position); });
      ASSERT_EQ(visited, read.positions);
    }
  }
  EXPECT_GT(sound, 5000);
  EXPECT_GT(unsound, 5000);
}

}  // namespace
}  // namespace tf_lowprec
