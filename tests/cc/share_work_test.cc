#include "cc/kernels/share_work.h"

#include <atomic>
#include <chrono>
#include <functional>
#include <thread>
#include <vector>

#include "gtest/gtest.h"

namespace tf_lowprec {
namespace {

constexpr int64_t kCostly = 1000000;  // cycles: enough for a helper per unit

// A pool that starts a thread for each function, and joins them at its end.
class Threads {
 public:
  ~Threads() {
    for (std::thread& thread : threads_) thread.join();
  }
  void operator()(std::function<void()> part) const { threads_.emplace_back(std::move(part)); }

 private:
  mutable std::vector<std::thread> threads_;
};

TEST(ShareWorkTest, DoesEachUnitOnce) {
  for (const int threads : {1, 2, 5}) {
    for (const int64_t total : {0, 1, 2, 7, 1000}) {
      std::vector<std::atomic<int>> times(total);
      {
        const Threads pool;
        ShareWork(total, kCostly, threads, pool, [&](int64_t begin, int64_t end) {
          for (int64_t i = begin; i < end; ++i) ++times[i];
        });
        for (int64_t i = 0; i < total; ++i) EXPECT_EQ(times[i], 1) << total << " " << i;
      }
    }
  }
}

TEST(ShareWorkTest, AsksForNoMoreThanThereAreThreadsAndUnits) {
  const auto asked = [](int64_t total, int64_t cost, int threads) {
    int count = 0;
    ShareWork(
        total, cost, threads, [&](const std::function<void()>&) { ++count; },
        [](int64_t, int64_t) {});
    return count;
  };
  EXPECT_EQ(asked(100, kCostly, 1), 0);
  EXPECT_EQ(asked(100, kCostly, 4), 3);
  EXPECT_EQ(asked(2, kCostly, 4), 1);
  EXPECT_EQ(asked(1, kCostly, 4), 0);
  EXPECT_EQ(asked(100, 10, 4), 0);  // too little to wake anyone
  EXPECT_EQ(asked(int64_t{1} << 40, int64_t{1} << 40, 4), 3);
}

TEST(ShareWorkTest, DoesNotWaitForThreadsThatNeverStart) {
  int64_t done = 0;
  ShareWork(
      1000, kCostly, 4, [](const std::function<void()>&) {},
      [&](int64_t begin, int64_t end) { done += end - begin; });
  EXPECT_EQ(done, 1000);
}

TEST(ShareWorkTest, ThreadsThatStartTooLateDoNothing) {
  std::vector<std::function<void()>> parts;
  {
    int64_t done = 0;
    const SharedWork::Work work = [&](int64_t begin, int64_t end) { done += end - begin; };
    ShareWork(
        10, kCostly, 4, [&](std::function<void()> part) { parts.push_back(std::move(part)); },
        work);
    EXPECT_EQ(done, 10);
    ASSERT_EQ(parts.size(), 3u);
  }
  for (const auto& part : parts) part();  // ASan sees it, if they use what is gone
}

TEST(ShareWorkTest, WaitsForWhatOthersBegan) {
  std::atomic<int64_t> done{0};
  const Threads pool;
  const std::thread::id caller = std::this_thread::get_id();
  std::atomic<bool> helped{false};
  ShareWork(8, kCostly, 2, pool, [&](int64_t begin, int64_t end) {
    if (std::this_thread::get_id() == caller) {
      while (!helped) std::this_thread::yield();
    } else {
      helped = true;
      std::this_thread::sleep_for(std::chrono::milliseconds(20));  // longer than Wait spins
    }
    done += end - begin;
  });
  EXPECT_EQ(done, 8);
}

}  // namespace
}  // namespace tf_lowprec
