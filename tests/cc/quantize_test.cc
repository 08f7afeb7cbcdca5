// The vectorized loops of every instruction set against the scalar functions, element by element.
#include "cc/kernels/quantize.h"

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "cc/kernels/cpu_features.h"
#include "cc/numerics/rounding.h"
#include "gtest/gtest.h"

namespace tf_lowprec {
namespace {

constexpr int64_t kSize = 3 * kQuantizeGrain + 1;
constexpr uint32_t kUntouched = 0x12345678u;

struct Range {
  int64_t begin, end;
};
// Shards begin on a multiple of the grain and end anywhere.
const Range kRanges[] = {{0, 0},
                         {0, 1},
                         {0, 7},
                         {0, 255},
                         {0, 257},
                         {0, kSize},
                         {kQuantizeGrain, kQuantizeGrain + 511},
                         {kQuantizeGrain, 2 * kQuantizeGrain},
                         {2 * kQuantizeGrain, kSize},
                         {3 * kQuantizeGrain, kSize}};

FloatFormat FloatOf(const QuantizeTask& task) {
  return {task.exponent_bits, task.mantissa_bits, static_cast<Specials>(task.specials),
          task.saturate, task.subnormals};
}

template <Rounding kRounding, typename T>
float ScalarAs(const QuantizeTask& task, T x, uint32_t r) {
  if (task.is_fixed) {
    return RoundToFixed<kRounding>(
        x, MakeFixedRounder<T>({task.integer_bits, task.fractional_bits}), r);
  }
  const FloatRounder<T> rounder = MakeFloatRounder<T>(FloatOf(task), kRounding);
  return task.subnormals ? RoundToFloat<kRounding, false>(x, rounder, r)
                         : RoundToFloat<kRounding, true>(x, rounder, r);
}

template <typename T>
float Scalar(const QuantizeTask& task, T x, int64_t i) {
  const uint32_t r =
      task.random_bits != nullptr
          ? static_cast<uint32_t>(task.random_bits[i])
          : RandomWord(i, task.stream, {task.seed[0], task.seed[1]}) >> (32 - kRandomBits);
  switch (static_cast<Rounding>(task.rounding)) {
    case Rounding::kNearestEven:
      return ScalarAs<Rounding::kNearestEven>(task, x, 0);
    case Rounding::kNearestUp:
      return ScalarAs<Rounding::kNearestUp>(task, x, 0);
    case Rounding::kStochastic:
      return ScalarAs<Rounding::kStochastic>(task, x, r);
    default:
      return ScalarAs<Rounding::kTowardZero>(task, x, 0);
  }
}

std::vector<QuantizeTask> Tasks() {
  const FloatFormat floats[] = {
      {5, 2, Specials::kIeee, false, true},   {4, 3, Specials::kFn, false, true},
      {2, 1, Specials::kFinite, false, true}, {8, 7, Specials::kIeee, true, false},
      {8, 23, Specials::kIeee, false, true},  {6, 9, Specials::kDlfloat, false, false}};
  std::vector<QuantizeTask> tasks;
  for (int rounding = 0; rounding < 4; ++rounding) {
    QuantizeTask task;
    task.rounding = rounding;
    task.seed[0] = 11;
    task.seed[1] = 0xFFFFFFF0u;
    task.stream = (uint64_t{3} << 32) + 20;
    for (const FloatFormat& f : floats) {
      task.exponent_bits = f.exponent_bits;
      task.mantissa_bits = f.mantissa_bits;
      task.specials = static_cast<int>(f.specials);
      task.saturate = f.saturate;
      task.subnormals = f.subnormals;
      tasks.push_back(task);
    }
    task.is_fixed = true;
    task.integer_bits = 2;
    task.fractional_bits = 14;
    tasks.push_back(task);
  }
  return tasks;
}

// Half of them near 1, the others random bit patterns.
template <typename T>
std::vector<T> Values() {
  using UInt = typename Carrier<T>::UInt;
  std::mt19937_64 random(5);
  std::normal_distribution<double> normal;
  std::vector<T> values(kSize);
  for (int64_t i = 0; i < kSize; ++i) {
    values[i] =
        i % 2 == 0 ? static_cast<T>(normal(random)) : FromBits<T>(static_cast<UInt>(random()));
  }
  return values;
}

std::vector<int32_t> RandomBits() {
  std::mt19937 random(6);
  std::vector<int32_t> bits(kSize);
  for (int32_t& r : bits) r = static_cast<int32_t>(random() >> 8);
  return bits;
}

void SetInput(QuantizeTask* task, const float* x) { task->x32 = x; }
void SetInput(QuantizeTask* task, const double* x) { task->x64 = x; }

// Every task over every range, with Philox and with given random bits.
template <typename T>
void ExpectLoopsEqualScalar(QuantizeFn quantize) {
  const std::vector<T> x = Values<T>();
  const std::vector<int32_t> random_bits = RandomBits();
  const int32_t* no_bits = nullptr;
  for (QuantizeTask task : Tasks()) {
    SetInput(&task, x.data());
    for (const int32_t* bits : {no_bits, random_bits.data()}) {
      task.random_bits = bits;
      for (const Range& range : kRanges) {
        std::vector<float> y(kSize, FromBits<float>(kUntouched));
        task.y = y.data();
        quantize(task, range.begin, range.end);
        for (int64_t i = 0; i < kSize; ++i) {
          const bool inside = i >= range.begin && i < range.end;
          const uint32_t want = inside ? ToBits<float>(Scalar(task, x[i], i)) : kUntouched;
          ASSERT_EQ(ToBits<float>(y[i]), want)
              << "element " << i << " of [" << range.begin << ", " << range.end << "), rounding "
              << task.rounding << ", fixed " << task.is_fixed << ", e " << task.exponent_bits
              << ", m " << task.mantissa_bits;
        }
      }
    }
  }
}

// Loops of one instruction set, or null where this CPU does not run it.
QuantizeFn LoopsOf(const std::string& isa, Isa id) {
  setenv("TF_LOWPREC_ISA", isa.c_str(), /*overwrite=*/1);
  const QuantizeFn quantize = ChooseIsa() == id ? ChooseQuantize() : nullptr;
  unsetenv("TF_LOWPREC_ISA");
  return quantize;
}

class LoopsTest : public testing::TestWithParam<std::pair<const char*, Isa>> {
 protected:
  void SetUp() override {
    quantize_ = LoopsOf(GetParam().first, GetParam().second);
    if (quantize_ == nullptr) GTEST_SKIP() << "this CPU has no " << GetParam().first;
  }
  QuantizeFn quantize_ = nullptr;
};

TEST_P(LoopsTest, OfFloatEqualScalar) { ExpectLoopsEqualScalar<float>(quantize_); }
TEST_P(LoopsTest, OfDoubleEqualScalar) { ExpectLoopsEqualScalar<double>(quantize_); }

INSTANTIATE_TEST_SUITE_P(EveryIsa, LoopsTest,
                         testing::Values(std::pair{"portable", Isa::kPortable},
                                         std::pair{"avx2", Isa::kAvx2},
                                         std::pair{"avx512", Isa::kAvx512}),
                         [](const auto& info) { return std::string(info.param.first); });

// Also what ThreadSanitizer watches: shards share the task and write side by side.
TEST_P(LoopsTest, ThreadsDoNotChangeTheResult) {
  constexpr int64_t kShards = 7;
  const int64_t n = kShards * kQuantizeGrain - 3;
  std::vector<float> x(n), want(n), got(n);
  std::mt19937 random(11);
  std::normal_distribution<float> normal;
  for (float& v : x) v = normal(random);
  QuantizeTask task;
  task.x32 = x.data();
  task.is_fixed = true;
  task.integer_bits = 2;
  task.fractional_bits = 14;
  task.rounding = static_cast<int>(Rounding::kStochastic);
  task.seed[0] = 3;
  task.y = want.data();
  quantize_(task, 0, n);
  task.y = got.data();
  std::vector<std::thread> threads;
  for (int64_t shard = 0; shard < kShards; ++shard) {
    threads.emplace_back([&, shard] {
      quantize_(task, shard * kQuantizeGrain, std::min(n, (shard + 1) * kQuantizeGrain));
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(got, want);
}

TEST(ChooseQuantize, TakesTheBestWithoutTheVariable) {
  unsetenv("TF_LOWPREC_ISA");
  EXPECT_EQ(ChooseQuantize(), LoopsOf("avx512", ChooseIsa()));
}

TEST(ChooseQuantize, InstructionSetsHaveCopiesOfTheirOwn) {
  const QuantizeFn portable = LoopsOf("portable", Isa::kPortable);
  const QuantizeFn avx2 = LoopsOf("avx2", Isa::kAvx2);
  if (avx2 == nullptr) GTEST_SKIP() << "this CPU has one only";
  EXPECT_NE(portable, avx2);
}

}  // namespace
}  // namespace tf_lowprec
