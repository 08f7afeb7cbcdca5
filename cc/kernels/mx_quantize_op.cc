// OpKernels of Lowprec>QuantizeMx: attributes, shapes, threads. Blocks: cc/numerics/mx.h.
#include <algorithm>

#include "cc/kernels/mx_quantize.h"
#include "cc/kernels/op_threads.h"
#include "cc/kernels/op_util.h"
#include "tensorflow/core/framework/op_kernel.h"

namespace tf_lowprec {
namespace {

using ::tensorflow::DEVICE_CPU;
using ::tensorflow::OpKernel;
using ::tensorflow::OpKernelConstruction;
using ::tensorflow::OpKernelContext;
using ::tensorflow::Tensor;
using ::tensorflow::TensorShape;

// What both devices do: attributes, shapes, outputs. Run fills those that are not empty.
template <typename T>
class QuantizeMxOpBase : public OpKernel {
 public:
  explicit QuantizeMxOpBase(OpKernelConstruction* ctx) : OpKernel(ctx) {
    Format format;
    OP_REQUIRES_OK(ctx, GetFormat(ctx, &format, "element"));
    OP_REQUIRES(ctx, !format.is_fixed,
                InvalidArgument("element must be a float format, got fixed point"));
    OP_REQUIRES(ctx, format.floating.exponent_bits <= 5,
                InvalidArgument("element must have at most 5 exponent bits"));
    Rounding rounding = Rounding::kNearestEven;
    OP_REQUIRES_OK(ctx, GetRounding(ctx, &rounding));
    OP_REQUIRES_OK(ctx, ctx->GetAttr("axis", &axis_));
    OP_REQUIRES_OK(ctx, ctx->GetAttr("block", &task_.block));
    OP_REQUIRES(ctx, task_.block >= 1, InvalidArgument("block must be at least 1"));
    int64_t stream;
    OP_REQUIRES_OK(ctx, ctx->GetAttr("stream", &stream));
    task_.element = MakeQuantizeTask(format, rounding, stream);
  }

  void Compute(OpKernelContext* ctx) override {
    const Tensor& x = ctx->input(0);
    const int rank = x.dims();
    OP_REQUIRES(
        ctx, axis_ >= -rank && axis_ < rank,
        InvalidArgument("axis = ", axis_, " is outside x of shape ", x.shape().DebugString()));
    const int axis = static_cast<int>(axis_ < 0 ? axis_ + rank : axis_);
    MxTask task = task_;
    OP_REQUIRES_OK(ctx, ReadSeed(ctx->input(1), task.element.seed));
    task.length = x.dim_size(axis);
    for (int i = 0; i < axis; ++i) task.outer *= x.dim_size(i);
    for (int i = axis + 1; i < rank; ++i) task.inner *= x.dim_size(i);
    TensorShape scales_shape = x.shape();
    scales_shape.set_dim(axis, task.Blocks());
    Tensor *y = nullptr, *scales = nullptr;
    OP_REQUIRES_OK(ctx, ctx->allocate_output(0, x.shape(), &y));
    OP_REQUIRES_OK(ctx, ctx->allocate_output(1, scales_shape, &scales));
    if (x.NumElements() == 0) return;
    if constexpr (sizeof(T) == sizeof(float)) {
      task.element.x32 = x.flat<T>().data();
    } else {
      task.element.x64 = x.flat<T>().data();
    }
    task.element.y = y->flat<float>().data();
    task.scales = scales->flat<uint8_t>().data();
    Run(ctx, task);
  }

 protected:
  virtual void Run(OpKernelContext* ctx, const MxTask& task) = 0;

 private:
  int64_t axis_ = -1;
  MxTask task_;
};

template <typename T>
class QuantizeMxCpuOp : public QuantizeMxOpBase<T> {
 public:
  explicit QuantizeMxCpuOp(OpKernelConstruction* ctx)
      : QuantizeMxOpBase<T>(ctx), quantize_(ChooseQuantizeMx()) {}

 protected:
  void Run(OpKernelContext* ctx, const MxTask& task) override {
    const int64_t size = task.outer * task.length * task.inner;
    PreferHugePages(task.element.y, size * static_cast<int64_t>(sizeof(float)));
    RunSharded(ctx, task.outer * task.Blocks(), task.inner * std::min(task.block, task.length) * 4,
               [&](int64_t begin, int64_t end) { QuantizeMx(quantize_, task, begin, end); });
  }

 private:
  const QuantizeMxFn quantize_;
};

#define REGISTER_FOR(T, device, Op) \
  REGISTER_KERNEL_BUILDER(          \
      Name("Lowprec>QuantizeMx").Device(device).TypeConstraint<T>("T").HostMemory("seed"), Op<T>)
REGISTER_FOR(float, DEVICE_CPU, QuantizeMxCpuOp);
REGISTER_FOR(double, DEVICE_CPU, QuantizeMxCpuOp);

#if GOOGLE_CUDA
template <typename T>
class QuantizeMxGpuOp : public QuantizeMxOpBase<T> {
 public:
  using QuantizeMxOpBase<T>::QuantizeMxOpBase;

 protected:
  void Run(OpKernelContext* ctx, const MxTask& task) override {
    OP_REQUIRES_OK(ctx, LaunchStatus(LaunchQuantizeMx(task, CudaStream(ctx))));
  }
};

REGISTER_FOR(float, ::tensorflow::DEVICE_GPU, QuantizeMxGpuOp);
REGISTER_FOR(double, ::tensorflow::DEVICE_GPU, QuantizeMxGpuOp);
#endif
#undef REGISTER_FOR

}  // namespace
}  // namespace tf_lowprec
