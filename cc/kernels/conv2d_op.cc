// OpKernels of Lowprec>Conv2D, Conv2DBackpropInput and Conv2DBackpropFilter: attributes, checks,
// blocks, threads. The loops are in conv2d_loops.h.
#include <vector>

#include "cc/kernels/conv2d.h"
#include "cc/kernels/op_gemm.h"
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

bool InRange(int64_t value, int64_t low) { return value >= low && value < int64_t{1} << 31; }

class Conv2DOpBase : public OpKernel {
 public:
  Conv2DOpBase(OpKernelConstruction* ctx, ConvPass pass)
      : OpKernel(ctx), pass_(pass), kernel_(ChooseConv2D()) {
    OP_REQUIRES_OK(ctx, GetGemm(ctx, &gemm_));
    std::string padding;
    OP_REQUIRES_OK(ctx, ctx->GetAttr("strides", &strides_));
    OP_REQUIRES_OK(ctx, ctx->GetAttr("dilations", &dilations_));
    OP_REQUIRES_OK(ctx, ctx->GetAttr("padding", &padding));
    OP_REQUIRES_OK(ctx, ctx->GetAttr("explicit_paddings", &paddings_));
    OP_REQUIRES_OK(ctx, ctx->GetAttr("groups", &groups_));
    same_ = padding == "SAME";
    for (const auto& [name, values] :
         {std::pair{"strides", &strides_}, {"dilations", &dilations_}}) {
      OP_REQUIRES(ctx, values->size() == 2 && InRange((*values)[0], 1) && InRange((*values)[1], 1),
                  InvalidArgument(name, " must be two integers in 1..2^31-1"));
    }
    OP_REQUIRES(ctx, paddings_.size() == (padding == "EXPLICIT" ? 4 : 0),
                InvalidArgument("explicit_paddings must be top, bottom, left, right for padding = "
                                "EXPLICIT, and empty otherwise; got ",
                                paddings_.size(), " values"));
    for (const int64_t p : paddings_) {
      OP_REQUIRES(ctx, InRange(p, 0),
                  InvalidArgument("explicit_paddings has ", p, "; it must be in 0..2^31-1"));
    }
    if (paddings_.empty()) paddings_.assign(4, 0);
  }

  void Compute(OpKernelContext* ctx) override {
    TensorShape x, filters, dy, out;
    OP_REQUIRES_OK(ctx, ReadShapes(ctx, &x, &filters, &dy));
    ConvTask task;
    task.product.pass = pass_;
    OP_REQUIRES_OK(ctx, MakeShape(x, filters, &task.product.shape));
    const ConvShape& s = task.product.shape;
    TensorShape y;
    OP_REQUIRES_OK(ctx, TensorShape::BuildTensorShape(
                            {s.batch, s.out_height, s.out_width, s.out_channels}, &y));
    OP_REQUIRES(ctx, pass_ == ConvPass::kForward || dy == y,
                InvalidArgument("dy of shape ", dy.DebugString(), " must have that of y, ",
                                y.DebugString()));
    OP_REQUIRES_OK(ctx, ReadSeed(ctx->input(ctx->num_inputs() - 1), task.seed));

    Tensor* result = nullptr;
    OP_REQUIRES_OK(ctx, ctx->allocate_output(0,
                                             pass_ == ConvPass::kForward    ? y
                                             : pass_ == ConvPass::kBackward ? x
                                                                            : filters,
                                             &result));
    if (result->NumElements() == 0) return;
    task.c = result->flat<float>().data();
    if (task.product.Length() == 0 || ctx->input(0).NumElements() == 0) {
      std::fill_n(task.c, result->NumElements(), 0.0f);  // sums without terms
      return;
    }
    OP_REQUIRES_OK(ctx, Run(ctx, &task));
    if (gemm_.rounds_output) {
      RoundSharded(ctx, gemm_.output, task.seed, kernel_.quantize, task.c, task.c,
                   result->NumElements());
    }
  }

 private:
  absl::Status ReadShapes(OpKernelContext* ctx, TensorShape* x, TensorShape* filters,
                          TensorShape* dy) const {
    TensorShape sizes;
    if (pass_ != ConvPass::kForward) {
      const Tensor& given = ctx->input(2);
      if (given.dims() != 1 || given.dim_size(0) != 4) {
        return InvalidArgument("sizes must hold four integers, got shape ",
                               given.shape().DebugString());
      }
      for (int i = 0; i < 4; ++i) {
        const int32_t size = given.flat<int32_t>()(i);
        if (size < 0) return InvalidArgument("sizes[", i, "] = ", size, " must be >= 0");
        TF_RETURN_IF_ERROR(sizes.AddDimWithStatus(size));
      }
    }
    *x = pass_ == ConvPass::kBackward ? sizes : ctx->input(0).shape();
    *filters = pass_ == ConvPass::kGradient ? sizes : ctx->input(1).shape();
    if (pass_ != ConvPass::kForward) {
      *dy = ctx->input(pass_ == ConvPass::kBackward ? 0 : 1).shape();
    }
    return absl::OkStatus();
  }

  absl::Status MakeShape(const TensorShape& x, const TensorShape& filters, ConvShape* s) const {
    if (x.dims() != 4 || filters.dims() != 4) {
      return InvalidArgument("x and filters must have four axes, got shapes ", x.DebugString(),
                             " and ", filters.DebugString());
    }
    s->batch = x.dim_size(0);
    s->in_height = x.dim_size(1);
    s->in_width = x.dim_size(2);
    s->in_channels = x.dim_size(3);
    s->filter_height = filters.dim_size(0);
    s->filter_width = filters.dim_size(1);
    s->out_channels = filters.dim_size(3);
    s->groups = groups_;
    s->stride_height = strides_[0];
    s->stride_width = strides_[1];
    s->dilation_height = dilations_[0];
    s->dilation_width = dilations_[1];
    if (filters.dim_size(2) * groups_ != s->in_channels || s->out_channels % groups_ != 0) {
      return InvalidArgument("x of shape ", x.DebugString(), " and filters of shape ",
                             filters.DebugString(), " do not match with groups = ", groups_);
    }
    const auto side = [this](int64_t in, int64_t filter, int axis, int64_t* before) -> int64_t {
      const int64_t extent = (filter - 1) * dilations_[axis] + 1, stride = strides_[axis];
      if (same_) {
        const int64_t out = (in + stride - 1) / stride;
        *before = std::max<int64_t>((out - 1) * stride + extent - in, 0) / 2;
        return out;
      }
      *before = paddings_[2 * axis];
      const int64_t room = in + paddings_[2 * axis] + paddings_[2 * axis + 1] - extent;
      return room < 0 ? 0 : room / stride + 1;
    };
    s->out_height = side(s->in_height, s->filter_height, 0, &s->pad_top);
    s->out_width = side(s->in_width, s->filter_width, 1, &s->pad_left);
    return absl::OkStatus();
  }

  absl::Status Run(OpKernelContext* ctx, ConvTask* task) const {
    std::vector<QuantizeTask> a_stages = gemm_.a.stages, b_stages = gemm_.b.stages;
    for (QuantizeTask& stage : a_stages) SetSeed(task->seed, &stage);
    for (QuantizeTask& stage : b_stages) SetSeed(task->seed, &stage);
    task->image = ctx->input(0).flat<float>().data();
    task->a_stages = a_stages.data();
    task->num_a_stages = static_cast<int>(a_stages.size());
    task->b = ctx->input(1).flat<float>().data();
    task->b_stages = b_stages.data();
    task->num_b_stages = static_cast<int>(b_stages.size());
    task->accumulator = gemm_.accumulator;
    task->a_spec = gemm_.a.spec;
    task->b_spec = gemm_.b.spec;
    task->stream = gemm_.stream;
    const int threads = ctx->device()->tensorflow_cpu_worker_threads()->num_threads;
    const ConvPlan plan = PlanConv2D(kernel_, *task, threads);
    Tensor source, packed, tiles;
    TF_RETURN_IF_ERROR(
        ctx->allocate_temp(::tensorflow::DT_FLOAT, TensorShape({plan.source_size}), &source));
    TF_RETURN_IF_ERROR(
        ctx->allocate_temp(::tensorflow::DT_FLOAT, TensorShape({plan.packed_size}), &packed));
    TF_RETURN_IF_ERROR(
        ctx->allocate_temp(::tensorflow::DT_INT8, TensorShape({plan.tile_bytes}), &tiles));
    const ConvMemory memory = {source.flat<float>().data(), packed.flat<float>().data(),
                               tiles.data()};
    const auto parallel_for = [ctx](int64_t total, int64_t cost, const auto& work) {
      RunSharded(ctx, total, cost, work);
    };
    if (!RunConv2D(kernel_, plan, *task, memory, parallel_for)) {
      return absl::ResourceExhaustedError("conv2d: out of memory");
    }
    return absl::OkStatus();
  }

  const ConvPass pass_;
  const Conv2D kernel_;
  GemmAttributes gemm_;
  std::vector<int64_t> strides_, dilations_, paddings_;
  int64_t groups_ = 1;
  bool same_ = false;
};

template <ConvPass kPass>
class Conv2DOp : public Conv2DOpBase {
 public:
  explicit Conv2DOp(OpKernelConstruction* ctx) : Conv2DOpBase(ctx, kPass) {}
};

REGISTER_KERNEL_BUILDER(Name("Lowprec>Conv2D").Device(DEVICE_CPU).HostMemory("seed"),
                        Conv2DOp<ConvPass::kForward>);
REGISTER_KERNEL_BUILDER(
    Name("Lowprec>Conv2DBackpropInput").Device(DEVICE_CPU).HostMemory("sizes").HostMemory("seed"),
    Conv2DOp<ConvPass::kBackward>);
REGISTER_KERNEL_BUILDER(
    Name("Lowprec>Conv2DBackpropFilter").Device(DEVICE_CPU).HostMemory("sizes").HostMemory("seed"),
    Conv2DOp<ConvPass::kGradient>);

}  // namespace
}  // namespace tf_lowprec
