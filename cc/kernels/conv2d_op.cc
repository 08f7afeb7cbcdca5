// OpKernels of Lowprec>Conv2D, Conv2DBackpropInput and Conv2DBackpropFilter: attributes, checks,
// blocks, threads. The loops are in conv2d_loops.h.
#include <vector>

#include "cc/kernels/conv2d.h"
#include "cc/kernels/op_gemm.h"
#include "cc/kernels/op_threads.h"
#include "cc/kernels/op_util.h"
#include "cc/numerics/window.h"
#include "tensorflow/core/framework/op_kernel.h"

namespace tf_lowprec {
namespace {

using ::tensorflow::DEVICE_CPU;
using ::tensorflow::DEVICE_GPU;
using ::tensorflow::OpKernel;
using ::tensorflow::OpKernelConstruction;
using ::tensorflow::OpKernelContext;
using ::tensorflow::Tensor;
using ::tensorflow::TensorShape;

bool InRange(int64_t value, int64_t low) { return value >= low && value < int64_t{1} << 31; }

// What both devices do: attributes, shapes, the output. Run fills a non-empty result.
class Conv2DOpBase : public OpKernel {
 public:
  Conv2DOpBase(OpKernelConstruction* ctx, ConvPass pass) : OpKernel(ctx), pass_(pass) {
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
    ConvProduct product;
    product.pass = pass_;
    OP_REQUIRES_OK(ctx, MakeShape(x, filters, &product.shape));
    const ConvShape& s = product.shape;
    TensorShape y;
    OP_REQUIRES_OK(ctx, TensorShape::BuildTensorShape(
                            {s.batch, s.out_height, s.out_width, s.out_channels}, &y));
    OP_REQUIRES(ctx, pass_ == ConvPass::kForward || dy == y,
                InvalidArgument("dy of shape ", dy.DebugString(), " must have that of y, ",
                                y.DebugString()));
    uint32_t seed[2];
    OP_REQUIRES_OK(ctx, ReadSeed(ctx->input(ctx->num_inputs() - 1), seed));

    Tensor* result = nullptr;
    OP_REQUIRES_OK(ctx, ctx->allocate_output(0,
                                             pass_ == ConvPass::kForward    ? y
                                             : pass_ == ConvPass::kBackward ? x
                                                                            : filters,
                                             &result));
    if (result->NumElements() == 0) return;
    OP_REQUIRES_OK(ctx, Run(ctx, product, ctx->input(0), ctx->input(1), seed,
                            result->flat<float>().data(), result->NumElements()));
  }

 protected:
  virtual absl::Status Run(OpKernelContext* ctx, const ConvProduct& product, const Tensor& a,
                           const Tensor& b, const uint32_t seed[2], float* c,
                           int64_t size) const = 0;

  const ConvPass pass_;
  GemmAttributes gemm_;

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
    const auto window = [&](int axis) -> WindowAxis {
      return {x.dim_size(1 + axis), filters.dim_size(axis), strides_[axis], dilations_[axis], same_,
              paddings_[2 * axis],  paddings_[2 * axis + 1]};
    };
    s->out_height = window(0).Outputs();
    s->out_width = window(1).Outputs();
    s->pad_top = window(0).Before();
    s->pad_left = window(1).Before();
    return absl::OkStatus();
  }

  std::vector<int64_t> strides_, dilations_, paddings_;
  int64_t groups_ = 1;
  bool same_ = false;
};

class Conv2DCpuOpBase : public Conv2DOpBase {
 public:
  Conv2DCpuOpBase(OpKernelConstruction* ctx, ConvPass pass)
      : Conv2DOpBase(ctx, pass), kernel_(ChooseConv2D()) {}

 protected:
  absl::Status Run(OpKernelContext* ctx, const ConvProduct& product, const Tensor& a,
                   const Tensor& b, const uint32_t seed[2], float* c, int64_t size) const override {
    if (product.Length() == 0 || a.NumElements() == 0) {
      std::fill_n(c, size, 0.0f);  // sums without terms
      return absl::OkStatus();
    }
    ConvTask task;
    task.product = product;
    task.seed[0] = seed[0];
    task.seed[1] = seed[1];
    task.c = c;
    std::vector<QuantizeTask> a_stages = gemm_.a.stages, b_stages = gemm_.b.stages;
    for (QuantizeTask& stage : a_stages) SetSeed(seed, &stage);
    for (QuantizeTask& stage : b_stages) SetSeed(seed, &stage);
    task.image = a.flat<float>().data();
    task.a_stages = a_stages.data();
    task.num_a_stages = static_cast<int>(a_stages.size());
    task.b = b.flat<float>().data();
    task.b_stages = b_stages.data();
    task.num_b_stages = static_cast<int>(b_stages.size());
    task.accumulator = gemm_.accumulator;
    task.a_spec = gemm_.a.spec;
    task.b_spec = gemm_.b.spec;
    task.stream = gemm_.stream;
    const int threads = ctx->device()->tensorflow_cpu_worker_threads()->num_threads;
    const ConvPlan plan = PlanConv2D(kernel_, task, threads);
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
    if (!RunConv2D(kernel_, plan, task, memory, parallel_for)) {
      return absl::ResourceExhaustedError("conv2d: out of memory");
    }
    if (gemm_.rounds_output) RoundSharded(ctx, gemm_.output, seed, kernel_.quantize, c, c, size);
    return absl::OkStatus();
  }

 private:
  const Conv2D kernel_;
};

template <ConvPass kPass>
class Conv2DCpuOp : public Conv2DCpuOpBase {
 public:
  explicit Conv2DCpuOp(OpKernelConstruction* ctx) : Conv2DCpuOpBase(ctx, kPass) {}
};

REGISTER_KERNEL_BUILDER(Name("Lowprec>Conv2D").Device(DEVICE_CPU).HostMemory("seed"),
                        Conv2DCpuOp<ConvPass::kForward>);
REGISTER_KERNEL_BUILDER(
    Name("Lowprec>Conv2DBackpropInput").Device(DEVICE_CPU).HostMemory("sizes").HostMemory("seed"),
    Conv2DCpuOp<ConvPass::kBackward>);
REGISTER_KERNEL_BUILDER(
    Name("Lowprec>Conv2DBackpropFilter").Device(DEVICE_CPU).HostMemory("sizes").HostMemory("seed"),
    Conv2DCpuOp<ConvPass::kGradient>);

#if GOOGLE_CUDA
template <ConvPass kPass>
class Conv2DGpuOp : public Conv2DOpBase {
 public:
  explicit Conv2DGpuOp(OpKernelConstruction* ctx) : Conv2DOpBase(ctx, kPass) {}

 protected:
  absl::Status Run(OpKernelContext* ctx, const ConvProduct& product, const Tensor& a,
                   const Tensor& b, const uint32_t seed[2], float* c, int64_t size) const override {
    GpuConv2DTask gpu;
    gpu.product = product;
    return MultiplyOnGpu(ctx, gemm_, a, b, seed, c, size, gpu, [&](const GpuConv2DTask& task) {
      return LaunchConv2D(task, CudaStream(ctx));
    });
  }
};

REGISTER_KERNEL_BUILDER(Name("Lowprec>Conv2D").Device(DEVICE_GPU).HostMemory("seed"),
                        Conv2DGpuOp<ConvPass::kForward>);
REGISTER_KERNEL_BUILDER(
    Name("Lowprec>Conv2DBackpropInput").Device(DEVICE_GPU).HostMemory("sizes").HostMemory("seed"),
    Conv2DGpuOp<ConvPass::kBackward>);
REGISTER_KERNEL_BUILDER(
    Name("Lowprec>Conv2DBackpropFilter").Device(DEVICE_GPU).HostMemory("sizes").HostMemory("seed"),
    Conv2DGpuOp<ConvPass::kGradient>);
#endif

}  // namespace
}  // namespace tf_lowprec
