// Running a kernel's loop on TensorFlow's threads.
#ifndef TF_LOWPREC_CC_KERNELS_OP_THREADS_H_
#define TF_LOWPREC_CC_KERNELS_OP_THREADS_H_

#include <functional>

#include "cc/kernels/float_mode.h"
#include "cc/kernels/share_work.h"
#include "tensorflow/core/framework/op_kernel.h"

namespace tf_lowprec {

// work(begin, end) over [0, total) in pieces, with subnormals on; cost_per_unit in CPU cycles.
inline void RunSharded(::tensorflow::OpKernelContext* ctx, int64_t total, int64_t cost_per_unit,
                       const std::function<void(int64_t, int64_t)>& work) {
  const auto& pool = *ctx->device()->tensorflow_cpu_worker_threads();
  ShareWork(
      total, cost_per_unit, pool.num_threads,
      [&pool](std::function<void()> part) { pool.workers->Schedule(std::move(part)); },
      [&work](int64_t begin, int64_t end) {
        const ScopedDenormals denormals;
        work(begin, end);
      });
}

}  // namespace tf_lowprec

#endif  // TF_LOWPREC_CC_KERNELS_OP_THREADS_H_
