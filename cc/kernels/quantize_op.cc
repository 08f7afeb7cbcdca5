// CPU kernels of Lowprec>Quantize and Lowprec>QuantizeGrad: checks, threads; the loops are in
// quantize_loops.h.
#include "cc/kernels/denormals.h"
#include "cc/kernels/op_util.h"
#include "cc/kernels/quantize.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/util/work_sharder.h"

namespace tf_lowprec {
namespace {

using ::tensorflow::DEVICE_CPU;
using ::tensorflow::OpInputList;
using ::tensorflow::OpKernel;
using ::tensorflow::OpKernelConstruction;
using ::tensorflow::OpKernelContext;
using ::tensorflow::Tensor;

void RunSharded(OpKernelContext* ctx, int64_t total, int64_t cost_per_unit,
                const std::function<void(int64_t, int64_t)>& work) {
  const auto& workers = *ctx->device()->tensorflow_cpu_worker_threads();
  ::tensorflow::Shard(workers.num_threads, workers.workers, total, cost_per_unit,
                      [&work](int64_t begin, int64_t end) {
                        const ScopedDenormals denormals;
                        work(begin, end);
                      });
}

absl::Status ReadSeed(const Tensor& seed, uint32_t key[2]) {
  if (seed.dims() != 1 || seed.dim_size(0) != 2) {
    return InvalidArgument("seed must have shape [2], got ", seed.shape().DebugString());
  }
  for (int i = 0; i < 2; ++i) {
    key[i] = seed.dtype() == ::tensorflow::DT_INT32
                 ? static_cast<uint32_t>(seed.flat<int32_t>()(i))
                 : static_cast<uint32_t>(seed.flat<int64_t>()(i));
  }
  return absl::OkStatus();
}

template <typename T>
class QuantizeOp : public OpKernel {
 public:
  explicit QuantizeOp(OpKernelConstruction* ctx) : OpKernel(ctx), quantize_(ChooseQuantize()) {
    Format format;
    OP_REQUIRES_OK(ctx, GetFormat(ctx, &format));
    Rounding rounding = Rounding::kNearestEven;
    OP_REQUIRES_OK(ctx, GetRounding(ctx, &rounding));
    int64_t stream;
    OP_REQUIRES_OK(ctx, ctx->GetAttr("stream", &stream));
    int num_random_bits;
    OP_REQUIRES_OK(ctx, ctx->GetAttr("num_random_bits", &num_random_bits));
    OP_REQUIRES(ctx, num_random_bits <= 1,
                InvalidArgument("random_bits takes one tensor, got ", num_random_bits));
    task_.is_fixed = format.is_fixed;
    task_.exponent_bits = format.floating.exponent_bits;
    task_.mantissa_bits = format.floating.mantissa_bits;
    task_.specials = static_cast<int>(format.floating.specials);
    task_.saturate = format.floating.saturate;
    task_.subnormals = format.floating.subnormals;
    task_.integer_bits = format.fixed.integer_bits;
    task_.fractional_bits = format.fixed.fractional_bits;
    task_.rounding = static_cast<int>(rounding);
    task_.stream = static_cast<uint64_t>(stream);
    stochastic_ = rounding == Rounding::kStochastic;
  }

  void Compute(OpKernelContext* ctx) override {
    const Tensor& x = ctx->input(0);
    QuantizeTask task = task_;
    OP_REQUIRES_OK(ctx, ReadSeed(ctx->input(1), task.seed));
    OpInputList random_bits;
    OP_REQUIRES_OK(ctx, ctx->input_list("random_bits", &random_bits));
    if (random_bits.size() == 1) {
      OP_REQUIRES(ctx, random_bits[0].shape() == x.shape(),
                  InvalidArgument("random_bits must have x's shape ", x.shape().DebugString(),
                                  ", got ", random_bits[0].shape().DebugString()));
      const auto r = random_bits[0].flat<int32_t>();
      for (int64_t i = 0; i < r.size(); ++i) {
        OP_REQUIRES(ctx, r(i) >= 0 && r(i) < (1 << 24),
                    InvalidArgument("random_bits[", i, "] = ", r(i), " must be in 0..2^24-1"));
      }
      task.random_bits = r.data();
    }
    Tensor* y = nullptr;
    OP_REQUIRES_OK(ctx, ctx->forward_input_or_allocate_output({0}, 0, x.shape(), &y));
    const int64_t n = x.NumElements();
    if (n == 0) return;
    if constexpr (std::is_same_v<T, float>) {
      task.x32 = x.flat<float>().data();
    } else {
      task.x64 = x.flat<double>().data();
    }
    task.y = y->flat<float>().data();
    const int64_t grains = (n + kQuantizeGrain - 1) / kQuantizeGrain;
    RunSharded(ctx, grains, kQuantizeGrain * (stochastic_ ? 4 : 1),
               [this, &task, n](int64_t begin, int64_t end) {
                 const int64_t stop = end * kQuantizeGrain;
                 quantize_(task, begin * kQuantizeGrain, stop < n ? stop : n);
               });
  }

 private:
  QuantizeTask task_;
  bool stochastic_ = false;
  const QuantizeFn quantize_;
};

template <typename T>
class QuantizeGradOp : public OpKernel {
 public:
  explicit QuantizeGradOp(OpKernelConstruction* ctx) : OpKernel(ctx) {
    Format format;
    OP_REQUIRES_OK(ctx, GetFormat(ctx, &format));
    if (format.is_fixed) {
      const FixedRounder<float> f = MakeFixedRounder<float>(format.fixed);
      lowest_ = f.lowest * f.unit;
      highest_ = f.highest * f.unit;
    } else {
      highest_ = FloatFromCode(format.floating, FloatMaxCode(format.floating));
      lowest_ = -highest_;
    }
  }

  void Compute(OpKernelContext* ctx) override {
    const Tensor& dy = ctx->input(0);
    const Tensor& x = ctx->input(1);
    OP_REQUIRES(ctx, dy.shape() == x.shape(),
                InvalidArgument("dy's shape ", dy.shape().DebugString(), " is not x's ",
                                x.shape().DebugString()));
    Tensor* dx = nullptr;
    OP_REQUIRES_OK(ctx, ctx->forward_input_or_allocate_output({1}, 0, x.shape(), &dx));
    const float* dy_data = dy.flat<float>().data();
    const T* x_data = x.flat<T>().data();
    T* dx_data = dx->flat<T>().data();
    const T lowest = lowest_, highest = highest_;
    RunSharded(ctx, x.NumElements(), 1, [=](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        // A NaN in x compares false: it lets dy through, so that loss scaling sees it.
        const bool saturated = x_data[i] < lowest || x_data[i] > highest;
        dx_data[i] = saturated ? T{0} : static_cast<T>(dy_data[i]);
      }
    });
  }

 private:
  float lowest_ = 0, highest_ = 0;
};

#define REGISTER(T)                                                                               \
  REGISTER_KERNEL_BUILDER(Name("Lowprec>Quantize").Device(DEVICE_CPU).TypeConstraint<T>("T"),     \
                          QuantizeOp<T>);                                                         \
  REGISTER_KERNEL_BUILDER(Name("Lowprec>QuantizeGrad").Device(DEVICE_CPU).TypeConstraint<T>("T"), \
                          QuantizeGradOp<T>)
REGISTER(float);
REGISTER(double);
#undef REGISTER

}  // namespace
}  // namespace tf_lowprec
