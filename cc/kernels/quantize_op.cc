// OpKernels of Lowprec>Quantize and Lowprec>QuantizeGrad: attributes, checks, threads. The loops
// are in quantize_loops.h (CPU) and quantize_gpu.h (CUDA).
#include "cc/kernels/op_threads.h"
#include "cc/kernels/op_util.h"
#include "cc/kernels/quantize.h"
#include "cc/numerics/rounding.h"
#include "tensorflow/core/framework/op_kernel.h"

namespace tf_lowprec {
namespace {

using ::tensorflow::DEVICE_CPU;
using ::tensorflow::DEVICE_GPU;
using ::tensorflow::OpInputList;
using ::tensorflow::OpKernel;
using ::tensorflow::OpKernelConstruction;
using ::tensorflow::OpKernelContext;
using ::tensorflow::Tensor;

// What both devices do: attributes, shapes, the output. Run rounds n > 0 elements.
template <typename T>
class QuantizeOpBase : public OpKernel {
 public:
  explicit QuantizeOpBase(OpKernelConstruction* ctx) : OpKernel(ctx) {
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
    task_ = MakeQuantizeTask(format, rounding, stream);
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
      task.random_bits = random_bits[0].template flat<int32_t>().data();
    }
    Tensor* y = nullptr;
    OP_REQUIRES_OK(ctx, ctx->forward_input_or_allocate_output({0}, 0, x.shape(), &y));
    if (x.NumElements() == 0) return;
    if constexpr (std::is_same_v<T, float>) {
      task.x32 = x.flat<float>().data();
    } else {
      task.x64 = x.flat<double>().data();
    }
    task.y = y->template flat<float>().data();
    Run(ctx, task, x.NumElements());
  }

 protected:
  virtual void Run(OpKernelContext* ctx, const QuantizeTask& task, int64_t n) = 0;

 private:
  QuantizeTask task_;
};

template <typename T>
class QuantizeCpuOp : public QuantizeOpBase<T> {
 public:
  explicit QuantizeCpuOp(OpKernelConstruction* ctx)
      : QuantizeOpBase<T>(ctx), quantize_(ChooseQuantize()) {}

 protected:
  void Run(OpKernelContext* ctx, const QuantizeTask& task, int64_t n) override {
    PreferHugePages(task.y, n * static_cast<int64_t>(sizeof(float)));
    for (int64_t i = 0; task.random_bits != nullptr && i < n; ++i) {
      OP_REQUIRES(ctx, task.random_bits[i] >= 0 && task.random_bits[i] < (1 << kRandomBits),
                  InvalidArgument("random_bits[", i, "] = ", task.random_bits[i],
                                  " (flat index) must be in 0..2^24-1"));
    }
    const bool stochastic = task.rounding == static_cast<int>(Rounding::kStochastic);
    const int64_t grains = (n + kQuantizeGrain - 1) / kQuantizeGrain;
    RunSharded(ctx, grains, kQuantizeGrain * (stochastic ? 4 : 1),
               [this, &task, n](int64_t begin, int64_t end) {
                 const int64_t stop = end * kQuantizeGrain;
                 quantize_(task, begin * kQuantizeGrain, stop < n ? stop : n);
               });
  }

 private:
  const QuantizeFn quantize_;
};

template <typename T>
class QuantizeGradOpBase : public OpKernel {
 public:
  explicit QuantizeGradOpBase(OpKernelConstruction* ctx) : OpKernel(ctx) {
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
    OP_REQUIRES_OK(ctx, ctx->forward_input_or_allocate_output({0, 1}, 0, x.shape(), &dx));
    if (x.NumElements() == 0) return;
    Run(ctx, dy.flat<float>().data(), x.flat<T>().data(), dx->template flat<T>().data(),
        x.NumElements());
  }

 protected:
  virtual void Run(OpKernelContext* ctx, const float* dy, const T* x, T* dx, int64_t n) = 0;

  T lowest_ = 0, highest_ = 0;
};

template <typename T>
class QuantizeGradCpuOp : public QuantizeGradOpBase<T> {
 public:
  using QuantizeGradOpBase<T>::QuantizeGradOpBase;

 protected:
  void Run(OpKernelContext* ctx, const float* dy, const T* x, T* dx, int64_t n) override {
    const T lowest = this->lowest_, highest = this->highest_;
    RunSharded(ctx, n, 1, [=](int64_t begin, int64_t end) {
#pragma GCC ivdep  // dx may be dy or x
      for (int64_t i = begin; i < end; ++i) dx[i] = StraightThrough(dy[i], x[i], lowest, highest);
    });
  }
};

#define REGISTER(OP, KERNEL, T) \
  REGISTER_KERNEL_BUILDER(Name(OP).Device(DEVICE_CPU).TypeConstraint<T>("T"), KERNEL<T>)
REGISTER("Lowprec>Quantize", QuantizeCpuOp, float);
REGISTER("Lowprec>Quantize", QuantizeCpuOp, double);
REGISTER("Lowprec>QuantizeGrad", QuantizeGradCpuOp, float);
REGISTER("Lowprec>QuantizeGrad", QuantizeGradCpuOp, double);
#undef REGISTER

#if GOOGLE_CUDA

template <typename T>
class QuantizeGpuOp : public QuantizeOpBase<T> {
 public:
  using QuantizeOpBase<T>::QuantizeOpBase;

 protected:
  void Run(OpKernelContext* ctx, const QuantizeTask& task, int64_t n) override {
    OP_REQUIRES_OK(ctx, LaunchStatus(LaunchQuantize(task, n, CudaStream(ctx))));
  }
};

template <typename T>
class QuantizeGradGpuOp : public QuantizeGradOpBase<T> {
 public:
  using QuantizeGradOpBase<T>::QuantizeGradOpBase;

 protected:
  void Run(OpKernelContext* ctx, const float* dy, const T* x, T* dx, int64_t n) override {
    OP_REQUIRES_OK(ctx, LaunchStatus(LaunchQuantizeGrad(dy, x, dx, n, this->lowest_, this->highest_,
                                                        CudaStream(ctx))));
  }
};

#define REGISTER(T)                                                                               \
  REGISTER_KERNEL_BUILDER(                                                                        \
      Name("Lowprec>Quantize").Device(DEVICE_GPU).HostMemory("seed").TypeConstraint<T>("T"),      \
      QuantizeGpuOp<T>);                                                                          \
  REGISTER_KERNEL_BUILDER(Name("Lowprec>QuantizeGrad").Device(DEVICE_GPU).TypeConstraint<T>("T"), \
                          QuantizeGradGpuOp<T>)
REGISTER(float);
REGISTER(double);
#undef REGISTER

#endif  // GOOGLE_CUDA

}  // namespace
}  // namespace tf_lowprec
