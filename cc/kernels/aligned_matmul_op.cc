// OpKernels of Lowprec>AlignedMatMul: checks, threads; the loops are in aligned_matmul_loops.h.
#include <atomic>

#include "cc/kernels/aligned_matmul.h"
#include "cc/kernels/op_threads.h"
#include "cc/kernels/op_util.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/util/matmul_bcast.h"

namespace tf_lowprec {
namespace {

using ::tensorflow::DEVICE_CPU;
using ::tensorflow::MatMulBCast;
using ::tensorflow::OpKernel;
using ::tensorflow::OpKernelConstruction;
using ::tensorflow::OpKernelContext;
using ::tensorflow::Tensor;
using ::tensorflow::TensorShape;

// Memory of one batch entry's packed operands.
class Packed {
 public:
  absl::Status Allocate(OpKernelContext* ctx, const AlignedMatMulTask& task) {
    a_ = task.m * task.k;
    const int64_t size = a_ + task.Panels() * task.k * AlignedMatMulTask::kLanes;
    TF_RETURN_IF_ERROR(ctx->allocate_temp(::tensorflow::DT_FLOAT, TensorShape({size}), &floats_));
    TF_RETURN_IF_ERROR(ctx->allocate_temp(::tensorflow::DT_INT8, TensorShape({size}), &exponents_));
    return ctx->allocate_temp(::tensorflow::DT_UINT8, TensorShape({task.m + task.Panels()}),
                              &special_);
  }
  void Lend(AlignedMatMulTask* task) {
    task->packed_a = floats_.flat<float>().data();
    task->packed_b = task->packed_a + a_;
    task->a_exponents = exponents_.flat<int8_t>().data();
    task->b_exponents = task->a_exponents + a_;
    task->a_is_special = special_.flat<uint8_t>().data();
    task->b_is_special = task->a_is_special + task->m;
  }

 private:
  int64_t a_ = 0;
  Tensor floats_, exponents_, special_;
};

// What both devices do: attributes, shapes, the output. Run fills one that is not empty.
class AlignedMatMulOpBase : public OpKernel {
 public:
  explicit AlignedMatMulOpBase(OpKernelConstruction* ctx) : OpKernel(ctx) {
    OP_REQUIRES_OK(ctx, ctx->GetAttr("transpose_a", &task_.transpose_a));
    OP_REQUIRES_OK(ctx, ctx->GetAttr("transpose_b", &task_.transpose_b));
    for (const char* name : {"a_format", "b_format"}) {
      Format format;
      OP_REQUIRES_OK(ctx, GetFormat(ctx, &format, name));
      OP_REQUIRES(ctx, !format.is_fixed,
                  InvalidArgument(name, " must be a float format, got fixed point"));
      AlignedOperand& operand = name[0] == 'a' ? task_.a_format : task_.b_format;
      operand.exponent_bits = format.floating.exponent_bits;
      operand.mantissa_bits = format.floating.mantissa_bits;
      operand.min_exponent = FloatMinExponent(format.floating);
    }
    OP_REQUIRES_OK(ctx, ctx->GetAttr("group", &task_.group));
    OP_REQUIRES_OK(ctx, ctx->GetAttr("fraction_bits", &task_.fraction_bits));
    Format sum;
    OP_REQUIRES_OK(ctx, GetFormat(ctx, &sum, "accumulator"));
    const FloatFormat& format = sum.floating;
    OP_REQUIRES(ctx,
                !sum.is_fixed && format.specials == Specials::kIeee && format.subnormals &&
                    !format.saturate,
                InvalidArgument("accumulator must be a float format with infinities and "
                                "subnormal numbers"));
    task_.exponent_bits = format.exponent_bits;
    task_.mantissa_bits = format.mantissa_bits;
    Rounding rounding = Rounding::kTowardZero;
    OP_REQUIRES_OK(ctx, GetRounding(ctx, &rounding));
    task_.nearest = rounding == Rounding::kNearestEven;
    OP_REQUIRES_OK(ctx, ctx->GetAttr("promote", &task_.promote));
    OP_REQUIRES(ctx, task_.group >= 1 && task_.group <= 1 << 20,
                InvalidArgument("group = ", task_.group, " must be in 1..2^20"));
    OP_REQUIRES(ctx, task_.fraction_bits >= 1 && task_.fraction_bits <= 30,
                InvalidArgument("fraction_bits = ", task_.fraction_bits, " must be in 1..30"));
    OP_REQUIRES(ctx, task_.promote % task_.group == 0,
                InvalidArgument("promote = ", task_.promote,
                                " must be a multiple of group = ", task_.group, ", or 0"));
  }

  void Compute(OpKernelContext* ctx) override {
    const Tensor& a = ctx->input(0);
    const Tensor& b = ctx->input(1);
    OP_REQUIRES(ctx, a.dims() >= 2 && b.dims() >= 2,
                InvalidArgument("a and b must have at least two axes, got shapes ",
                                a.shape().DebugString(), " and ", b.shape().DebugString()));
    AlignedMatMulTask task = task_;
    task.m = a.dim_size(a.dims() - (task.transpose_a ? 1 : 2));
    task.k = a.dim_size(a.dims() - (task.transpose_a ? 2 : 1));
    task.n = b.dim_size(b.dims() - (task.transpose_b ? 2 : 1));
    const MatMulBCast broadcast(a.shape().dim_sizes(), b.shape().dim_sizes());
    OP_REQUIRES(
        ctx, b.dim_size(b.dims() - (task.transpose_b ? 1 : 2)) == task.k && broadcast.IsValid(),
        InvalidArgument("a of shape ", a.shape().DebugString(), " and b of shape ",
                        b.shape().DebugString(), " do not match (transpose_a=", task.transpose_a,
                        ", transpose_b=", task.transpose_b, ")"));
    TensorShape shape = broadcast.output_batch_shape();
    OP_REQUIRES_OK(ctx, AddDims({task.m, task.n}, &shape));
    Tensor* product = nullptr;
    OP_REQUIRES_OK(ctx, ctx->allocate_output(0, shape, &product));
    if (product->NumElements() == 0) return;

    task.a = a.flat<float>().data();
    task.b = b.flat<float>().data();
    task.c = product->flat<float>().data();
    Run(ctx, task, broadcast);
  }

 protected:
  // task's operands are those of all batch entries.
  virtual void Run(OpKernelContext* ctx, const AlignedMatMulTask& task,
                   const MatMulBCast& broadcast) = 0;

  static AlignedMatMulTask Entry(const AlignedMatMulTask& task, const MatMulBCast& broadcast,
                                 int64_t batch) {
    const bool own = !broadcast.IsBroadcastingRequired();
    AlignedMatMulTask part = task;
    part.a += (own ? batch : broadcast.x_batch_indices()[batch]) * task.m * task.k;
    part.b += (own ? batch : broadcast.y_batch_indices()[batch]) * task.k * task.n;
    part.c += batch * task.m * task.n;
    return part;
  }

 private:
  AlignedMatMulTask task_;
};

class AlignedMatMulCpuOp : public AlignedMatMulOpBase {
 public:
  explicit AlignedMatMulCpuOp(OpKernelConstruction* ctx)
      : AlignedMatMulOpBase(ctx), kernel_(ChooseAlignedMatMul()) {}

 protected:
  void Run(OpKernelContext* ctx, const AlignedMatMulTask& task,
           const MatMulBCast& broadcast) override {
    const int64_t batches = broadcast.output_batch_size();
    if (batches > 1) {  // each entry is one thread's
      std::atomic<bool> out_of_memory{false};
      RunSharded(ctx, batches, task.m * task.n * (task.k + 8), [&](int64_t begin, int64_t end) {
        Packed packed;
        if (!packed.Allocate(ctx, task).ok()) {
          out_of_memory = true;
          return;
        }
        for (int64_t batch = begin; batch < end; ++batch) {
          AlignedMatMulTask part = Entry(task, broadcast, batch);
          packed.Lend(&part);
          kernel_.pack_a(part, 0, part.m);
          kernel_.pack_b(part, 0, part.Panels());
          kernel_.multiply(part, 0, AlignedMatMul::Tiles(part));
        }
      });
      OP_REQUIRES(ctx, !out_of_memory,
                  absl::ResourceExhaustedError("out of memory for a thread's packed operands"));
      return;
    }
    AlignedMatMulTask part = Entry(task, broadcast, 0);
    Packed packed;
    OP_REQUIRES_OK(ctx, packed.Allocate(ctx, part));
    packed.Lend(&part);
    RunSharded(ctx, part.m, part.k * 3,
               [&](int64_t begin, int64_t end) { kernel_.pack_a(part, begin, end); });
    RunSharded(ctx, part.Panels(), part.k * AlignedMatMulTask::kLanes * 3,
               [&](int64_t begin, int64_t end) { kernel_.pack_b(part, begin, end); });
    RunSharded(ctx, AlignedMatMul::Tiles(part),
               AlignedMatMul::kTileRows * AlignedMatMulTask::kLanes * (part.k + 8) / 2,
               [&](int64_t begin, int64_t end) { kernel_.multiply(part, begin, end); });
  }

 private:
  const AlignedMatMul kernel_;
};

REGISTER_KERNEL_BUILDER(Name("Lowprec>AlignedMatMul").Device(DEVICE_CPU), AlignedMatMulCpuOp);

#if GOOGLE_CUDA
class AlignedMatMulGpuOp : public AlignedMatMulOpBase {
 public:
  using AlignedMatMulOpBase::AlignedMatMulOpBase;

 protected:
  void Run(OpKernelContext* ctx, const AlignedMatMulTask& task,
           const MatMulBCast& broadcast) override {
    const int64_t batches = broadcast.output_batch_size();
    if (!broadcast.IsBroadcastingRequired()) {
      OP_REQUIRES_OK(ctx, LaunchStatus(LaunchAlignedMatMul(task, batches, CudaStream(ctx))));
      return;
    }
    for (int64_t batch = 0; batch < batches; ++batch) {
      OP_REQUIRES_OK(ctx, LaunchStatus(LaunchAlignedMatMul(Entry(task, broadcast, batch), 1,
                                                           CudaStream(ctx))));
    }
  }
};

REGISTER_KERNEL_BUILDER(Name("Lowprec>AlignedMatMul").Device(::tensorflow::DEVICE_GPU),
                        AlignedMatMulGpuOp);
#endif

}  // namespace
}  // namespace tf_lowprec
