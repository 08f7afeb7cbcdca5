// What random_history.h claims of the generator.
#include "cc/kernels/random_history.h"

#include <algorithm>
#include <vector>

#include "cc/numerics/accumulate.h"
#include "gtest/gtest.h"

namespace tf_lowprec {
namespace {

std::vector<uint32_t> States(uint32_t x, int count) {
  std::vector<uint32_t> states;
  for (int i = 0; i < count; ++i, x = NextRandomState(x)) states.push_back(x);
  return states;
}

// The generator is linear: what holds for the 32 states of one bit holds for all.
TEST(RandomHistory, LaterStatesAreThoseOfTheLags) {
  for (int bit = 0; bit < 32; ++bit) {
    const std::vector<uint32_t> x = States(1u << bit, 2000);
    for (size_t n = kLongestLag; n < x.size(); ++n) {
      uint32_t sum = x[n - kLongestLag];
      for (const int lag : kShorterLags) sum ^= x[n - lag];
      ASSERT_EQ(sum, x[n]) << "bit " << bit << ", step " << n;
    }
  }
}

TEST(RandomHistory, TheGeneratorIsLinear) {
  for (uint32_t i = 1; i < 1000; ++i) {
    const uint32_t x = i * 0x9E3779B9u, y = i * 0x85EBCA6Bu;
    EXPECT_EQ(NextRandomState(x ^ y), NextRandomState(x) ^ NextRandomState(y));
  }
}

// Words are kept for all parts of a tile, and the last ones survive.
TEST(RandomHistory, ForgetsAllButTheLast) {
  RandomHistory history;
  ASSERT_TRUE(history.Allocate());
  constexpr int kStep = RandomHistory::kStepWords;
  const auto word = [](int part, int64_t step, int i) {
    return static_cast<uint32_t>((part * RandomHistory::kMostSteps + step) * kStep + i);
  };
  for (; history.steps < RandomHistory::kMostSteps; ++history.steps) {
    for (int part = 0; part < RandomHistory::kParts; ++part) {
      for (int i = 0; i < kStep; ++i) history.Next(part)[i] = word(part, history.steps, i);
    }
  }
  history.Forget();
  ASSERT_EQ(history.steps, kLongestLag);
  for (int part = 0; part < RandomHistory::kParts; ++part) {
    for (int lag = 1; lag <= kLongestLag; ++lag) {
      for (int i = 0; i < kStep; ++i) {
        EXPECT_EQ((history.Next(part) - lag * kStep)[i],
                  word(part, RandomHistory::kMostSteps - lag, i));
      }
    }
  }
}

// Sums of k terms, of which some were added.
TEST(RandomHistory, ThereIsRoomForMostTermsAndTheirChunks) {
  int64_t fullest = 0;
  for (int64_t chunk = 1; chunk < 1300; ++chunk) {
    const int64_t terms = RandomHistory::MostTerms(chunk);
    ASSERT_GT(terms, 0);
    for (int64_t before = 0; before < std::min<int64_t>(chunk, 40); ++before) {
      const int64_t k = before + terms, shorter = k % chunk != 0;
      const int64_t steps = kLongestLag + terms + k / chunk - before / chunk + shorter;
      ASSERT_LE(steps, RandomHistory::kMostSteps) << "chunk " << chunk << ", after " << before;
      fullest = std::max(fullest, steps);
    }
  }
  EXPECT_GE(fullest, RandomHistory::kMostSteps - 1);
  EXPECT_EQ(RandomHistory::MostTerms(int64_t{1} << 62), RandomHistory::MostTerms(0));
}

}  // namespace
}  // namespace tf_lowprec
