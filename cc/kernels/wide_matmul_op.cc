// CPU OpKernel of Lowprec>WideMatMul: checks, threads; the loops are in wide_matmul_loops.h.
#include "cc/kernels/op_threads.h"
#include "cc/kernels/op_util.h"
#include "cc/kernels/wide_matmul.h"
#include "tensorflow/core/framework/op_kernel.h"

namespace tf_lowprec {
namespace {

using ::tensorflow::DEVICE_CPU;
using ::tensorflow::OpKernel;
using ::tensorflow::OpKernelConstruction;
using ::tensorflow::OpKernelContext;
using ::tensorflow::Tensor;
using ::tensorflow::TensorShape;

// What both devices do: attributes, shapes, the output. Run multiplies non-empty matrices.
class WideMatMulOpBase : public OpKernel {
 public:
  explicit WideMatMulOpBase(OpKernelConstruction* ctx) : OpKernel(ctx) {
    OP_REQUIRES_OK(ctx, ctx->GetAttr("transpose_a", &task_.transpose_a));
    OP_REQUIRES_OK(ctx, ctx->GetAttr("transpose_b", &task_.transpose_b));
    for (const char* name : {"a_format", "b_format"}) {
      Format format;
      OP_REQUIRES_OK(ctx, GetFormat(ctx, &format, name));
      const int bits = format.fixed.integer_bits + format.fixed.fractional_bits;
      OP_REQUIRES(ctx, format.is_fixed && bits <= 16,
                  InvalidArgument(name, " must be fixed point of at most 16 bits"));
      (name[0] == 'a' ? task_.a_fractional_bits : task_.b_fractional_bits) =
          format.fixed.fractional_bits;
    }
  }

  void Compute(OpKernelContext* ctx) override {
    const Tensor& a = ctx->input(0);
    const Tensor& b = ctx->input(1);
    const int rank = a.dims();
    OP_REQUIRES(ctx, rank >= 2 && b.dims() == rank,
                InvalidArgument("a and b must be matrices with equal leading axes, got shapes ",
                                a.shape().DebugString(), " and ", b.shape().DebugString()));
    WideMatMulTask task = task_;
    task.m = a.dim_size(rank - (task.transpose_a ? 1 : 2));
    task.k = a.dim_size(rank - (task.transpose_a ? 2 : 1));
    task.n = b.dim_size(rank - (task.transpose_b ? 2 : 1));
    bool match = b.dim_size(rank - (task.transpose_b ? 1 : 2)) == task.k;
    TensorShape shape;
    int64_t batches = 1;
    for (int axis = 0; axis < rank - 2; ++axis) {
      match = match && a.dim_size(axis) == b.dim_size(axis);
      OP_REQUIRES_OK(ctx, AddDims({a.dim_size(axis)}, &shape));
      batches *= a.dim_size(axis);
    }
    OP_REQUIRES(ctx, match,
                InvalidArgument("a of shape ", a.shape().DebugString(), " and b of shape ",
                                b.shape().DebugString(), " do not match (transpose_a=",
                                task.transpose_a, ", transpose_b=", task.transpose_b, ")"));
    OP_REQUIRES_OK(ctx, AddDims({task.m, task.n}, &shape));
    Tensor* product = nullptr;
    OP_REQUIRES_OK(ctx, ctx->allocate_output(0, shape, &product));
    if (product->NumElements() == 0) return;

    task.a = a.flat<float>().data();
    task.b = b.flat<float>().data();
    task.c = product->flat<double>().data();
    Run(ctx, task, batches);
  }

 protected:
  virtual void Run(OpKernelContext* ctx, WideMatMulTask task, int64_t batches) = 0;

 private:
  WideMatMulTask task_;
};

class WideMatMulCpuOp : public WideMatMulOpBase {
 public:
  explicit WideMatMulCpuOp(OpKernelConstruction* ctx)
      : WideMatMulOpBase(ctx), kernel_(ChooseWideMatMul()) {}

 protected:
  void Run(OpKernelContext* ctx, WideMatMulTask task, int64_t batches) override {
    Tensor packed, nan;
    OP_REQUIRES_OK(ctx,
                   ctx->allocate_temp(::tensorflow::DT_INT8,
                                      TensorShape({kernel_.PackedBytes(task.m, task.k)}), &packed));
    OP_REQUIRES_OK(ctx, ctx->allocate_temp(::tensorflow::DT_UINT8, TensorShape({task.m}), &nan));
    task.packed_a = packed.data();
    task.a_has_nan = nan.flat<uint8_t>().data();
    for (int64_t batch = 0; batch < batches; ++batch) {
      RunSharded(ctx, kernel_.PackUnits(task.m), kernel_.rows * task.k * 2,
                 [&](int64_t begin, int64_t end) { kernel_.pack(task, begin, end); });
      RunSharded(ctx, kernel_.MultiplyUnits(task.n), kernel_.columns * task.m * task.k / 8,
                 [&](int64_t begin, int64_t end) { kernel_.multiply(task, begin, end); });
      task.a += task.m * task.k;
      task.b += task.k * task.n;
      task.c += task.m * task.n;
    }
  }

 private:
  const WideMatMul kernel_;
};

REGISTER_KERNEL_BUILDER(Name("Lowprec>WideMatMul").Device(DEVICE_CPU), WideMatMulCpuOp);

#if GOOGLE_CUDA
class WideMatMulGpuOp : public WideMatMulOpBase {
 public:
  using WideMatMulOpBase::WideMatMulOpBase;

 protected:
  void Run(OpKernelContext* ctx, WideMatMulTask task, int64_t batches) override {
    OP_REQUIRES_OK(ctx, LaunchStatus(LaunchWideMatMul(task, batches, CudaStream(ctx))));
  }
};

REGISTER_KERNEL_BUILDER(Name("Lowprec>WideMatMul").Device(::tensorflow::DEVICE_GPU),
                        WideMatMulGpuOp);
#endif

}  // namespace
}  // namespace tf_lowprec
