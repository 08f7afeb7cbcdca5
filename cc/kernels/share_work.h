// Sharing a loop among threads of a pool. The caller takes part, and waits only for pieces that
// others have begun: to wake a sleeping thread can take longer than the whole loop.
#ifndef TF_LOWPREC_CC_KERNELS_SHARE_WORK_H_
#define TF_LOWPREC_CC_KERNELS_SHARE_WORK_H_

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace tf_lowprec {

// A loop over [0, total), in pieces of `piece`, that threads take until there is none left.
class SharedWork {
 public:
  using Work = std::function<void(int64_t begin, int64_t end)>;

  // `work` must live until Wait returns.
  SharedWork(int64_t total, int64_t piece, const Work& work)
      : total_(total), piece_(piece), work_(work) {}

  // Works while there are pieces left. A thread that comes too late does not touch `work`.
  void TakePart() {
    for (;;) {
      const int64_t begin = next_.fetch_add(piece_, std::memory_order_relaxed);
      if (begin >= total_) return;
      const int64_t end = std::min(begin + piece_, total_);
      work_(begin, end);
      if (done_.fetch_add(end - begin, std::memory_order_acq_rel) + end - begin == total_) {
        const std::lock_guard<std::mutex> lock(mutex_);
        finished_.notify_one();
      }
    }
  }

  // Returns when all of it is done.
  void Wait() {
    for (int i = 0; i < kSpins; ++i) {
      if (Done()) return;
      Pause();
    }
    std::unique_lock<std::mutex> lock(mutex_);
    finished_.wait(lock, [this] { return Done(); });
  }

 private:
  static constexpr int kSpins = 1000;  // about as long as a piece's last part

  bool Done() const { return done_.load(std::memory_order_acquire) == total_; }
  static void Pause() {
#if defined(__x86_64__)
    _mm_pause();
#endif
  }

  const int64_t total_, piece_;
  const Work& work_;
  std::atomic<int64_t> next_{0}, done_{0};
  std::mutex mutex_;
  std::condition_variable finished_;
};

// Fewer cycles than these are done before a thread that is woken for them gets to work.
constexpr double kCyclesPerHelper = 200e3;
// Per thread: few, since each begins with empty caches, but enough to even out what threads get.
constexpr int64_t kPiecesPerThread = 4;

// work(begin, end) over [0, total) in pieces, on the calling thread and at most threads - 1 others,
// each by schedule(function); cost_per_unit in CPU cycles.
template <typename Schedule>
void ShareWork(int64_t total, int64_t cost_per_unit, int threads, const Schedule& schedule,
               const SharedWork::Work& work) {
  if (total <= 0) return;
  const double cost = static_cast<double>(total) * static_cast<double>(cost_per_unit);
  const int64_t most = std::min<int64_t>(threads, total) - 1;
  const int64_t helpers = std::min(static_cast<double>(most), cost / kCyclesPerHelper);
  if (helpers <= 0) {
    work(0, total);
    return;
  }
  const int64_t pieces = kPiecesPerThread * (helpers + 1);
  const auto shared = std::make_shared<SharedWork>(total, (total + pieces - 1) / pieces, work);
  for (int64_t i = 0; i < helpers; ++i) schedule([shared] { shared->TakePart(); });
  shared->TakePart();
  shared->Wait();
}

}  // namespace tf_lowprec

#endif  // TF_LOWPREC_CC_KERNELS_SHARE_WORK_H_
