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

constexpr int64_t kPackedBytes = 4 << 20;  // of one operand's block
constexpr int64_t kTileBytes = 4 << 20;    // of sums kept from one block of k to the next

bool InRange(int64_t value, int64_t low) { return value >= low && value < int64_t{1} << 31; }

int64_t CeilOf(int64_t a, int64_t b) { return (a + b - 1) / b; }

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
      : Conv2DOpBase(ctx, pass), kernel_(ChooseConv2D()), quantize_(ChooseQuantize()) {}

 protected:
  absl::Status Run(OpKernelContext* ctx, const ConvProduct& product, const Tensor& a,
                   const Tensor& b, const uint32_t seed[2], float* c, int64_t size) const override {
    if (product.Length() == 0 || a.NumElements() == 0) {
      std::fill_n(c, size, 0.0f);  // sums without terms
      return absl::OkStatus();
    }
    ConvBlock block;
    block.product = product;
    block.seed[0] = seed[0];
    block.seed[1] = seed[1];
    block.accumulator = gemm_.accumulator;
    block.a_spec = gemm_.a.spec;
    block.b_spec = gemm_.b.spec;
    block.stream = gemm_.stream;
    block.b = b.flat<float>().data();
    block.c = c;
    TF_RETURN_IF_ERROR(RunBlocks(ctx, a, block));
    if (gemm_.rounds_output) RoundSharded(ctx, gemm_.output, seed, quantize_, c, c, size);
    return absl::OkStatus();
  }

 private:
  // Rounds the pixels that a block needs into `rounded`, or points to the image itself.
  absl::Status RoundSource(OpKernelContext* ctx, const Tensor& image, int64_t begin, int64_t end,
                           Tensor* rounded, ConvBlock* block) const {
    const float* data = image.flat<float>().data();
    block->source = data;
    block->first_pixel = 0;
    if (gemm_.a.stages.empty() || image.NumElements() == 0) return absl::OkStatus();
    int64_t first, last;
    ConvSource(block->product, begin, end, &first, &last);
    const int64_t channels = block->product.SourceChannels();
    const int64_t count = (last - first) * channels;
    if (rounded->NumElements() < count) {
      TF_RETURN_IF_ERROR(ctx->allocate_temp(::tensorflow::DT_FLOAT, TensorShape({count}), rounded));
    }
    float* to = rounded->flat<float>().data();
    const float* from = data + first * channels;
    for (QuantizeTask stage : gemm_.a.stages) {
      stage.index = first * channels;
      RoundSharded(ctx, stage, block->seed, quantize_, from, to, count);
      from = to;
    }
    block->source = to;
    block->first_pixel = first;
    return absl::OkStatus();
  }

  absl::Status RunBlocks(OpKernelContext* ctx, const Tensor& image, ConvBlock block) const {
    const ConvProduct& p = block.product;
    const int64_t rows = p.Rows(), length = p.Length(), columns = p.Columns();
    const int64_t chunk = gemm_.accumulator.chunk;
    const int64_t kr = kernel_.rows, kc = kernel_.columns;
    const bool gradient = pass_ == ConvPass::kGradient;
    // Blocks: of columns, so that filters fit; of k, in kGradient, where it is long; of rows.
    const int64_t groups = p.shape.groups;
    int64_t k_step = std::max<int64_t>(length, 1), row_step = rows, column_step = columns;
    if (gradient) {
      column_step = std::min(columns, kPackedBytes / 4 / 256 / kc * kc);
      const int64_t column_tiles = CeilOf(column_step, kc);
      row_step = std::max<int64_t>(kTileBytes / kernel_.tile_bytes / column_tiles / groups, 1) * kr;
      const int64_t widest = std::max(std::min(row_step, CeilOf(rows, kr) * kr), column_step);
      k_step = std::min(k_step, std::max<int64_t>(kPackedBytes / 4 / widest, 64));
      if (chunk > 0 && chunk < k_step) k_step -= k_step % chunk;
    } else {
      column_step = std::max(std::min(columns, kPackedBytes / 4 / k_step / kc * kc), kc);
      row_step = std::max<int64_t>(kPackedBytes / 4 / k_step / kr, 1) * kr;
      row_step = std::min(
          row_step,
          std::max<int64_t>(kTileBytes / kernel_.tile_bytes / CeilOf(column_step, kc), 1) * kr);
    }
    row_step = std::min(row_step, CeilOf(rows, kr) * kr);
    column_step = std::min(column_step, CeilOf(columns, kc) * kc);

    std::vector<QuantizeTask> b_stages = gemm_.b.stages;
    for (QuantizeTask& stage : b_stages) SetSeed(block.seed, &stage);
    block.b_stages = b_stages.data();
    block.num_b_stages = static_cast<int>(b_stages.size());

    const int64_t row_panels = row_step / kr, column_panels = CeilOf(column_step, kc);
    const int64_t tiles = row_panels * column_panels;
    const int64_t kept_groups = gradient ? groups : 1;
    const bool one_b = !gradient && column_step >= columns &&
                       groups * column_panels * kc * k_step * 4 <= kPackedBytes;
    const int64_t b_copies = one_b ? groups : 1;
    const int64_t b_size = column_panels * kc * k_step;
    Tensor packed_a, packed_b, tile_memory, source;
    TF_RETURN_IF_ERROR(
        ctx->allocate_temp(::tensorflow::DT_FLOAT, TensorShape({row_step * k_step}), &packed_a));
    TF_RETURN_IF_ERROR(
        ctx->allocate_temp(::tensorflow::DT_FLOAT, TensorShape({b_copies * b_size}), &packed_b));
    TF_RETURN_IF_ERROR(ctx->allocate_temp(::tensorflow::DT_INT8,
                                          TensorShape({kept_groups * tiles * kernel_.tile_bytes}),
                                          &tile_memory));
    std::vector<PanelRange> a_ranges(kept_groups * row_panels), b_ranges(groups * column_panels);
    std::vector<uint8_t> padded(row_panels);
    std::vector<bool> has_b(groups, false);
    bool out_of_memory = false;
    block.out_of_memory = &out_of_memory;
    block.packed_a = packed_a.flat<float>().data();
    block.a_padded = padded.data();

    for (int64_t column = 0; column < columns; column += column_step) {
      block.column_begin = column;
      block.column_end = std::min(column + column_step, columns);
      for (int64_t row = 0; row < rows; row += row_step) {
        block.row_begin = row;
        block.row_end = std::min(row + row_step, rows);
        std::fill(a_ranges.begin(), a_ranges.end(), PanelRange());
        if (!one_b) std::fill(b_ranges.begin(), b_ranges.end(), PanelRange());
        for (int64_t k = 0; k < std::max<int64_t>(length, 1); k += k_step) {
          block.k_begin = k;
          block.k_end = std::min(k + k_step, length);
          TF_RETURN_IF_ERROR(RoundSource(ctx, image, gradient ? k : row,
                                         gradient ? block.k_end : block.row_end, &source, &block));
          for (int64_t group = 0; group < groups; ++group) {
            block.group = group;
            const int64_t kept = gradient ? group : 0;
            if (!gradient) std::fill(a_ranges.begin(), a_ranges.end(), PanelRange());
            block.a_range = a_ranges.data() + kept * row_panels;
            block.b_range = b_ranges.data() + group * column_panels;
            block.packed_b = packed_b.flat<float>().data() + (one_b ? group : 0) * b_size;
            block.tiles =
                static_cast<char*>(tile_memory.data()) + kept * tiles * kernel_.tile_bytes;
            const int64_t depth = block.k_end - block.k_begin;
            RunSharded(ctx, block.RowPanels(kr), kr * depth * 2,
                       [&](int64_t begin, int64_t end) { kernel_.pack_a(block, begin, end); });
            if (!one_b || !has_b[group]) {
              RunSharded(ctx, block.ColumnPanels(kc), kc * depth * 2,
                         [&](int64_t begin, int64_t end) { kernel_.pack_b(block, begin, end); });
              has_b[group] = true;
            }
            RunSharded(ctx, block.RowPanels(kr) * block.ColumnPanels(kc), kr * kc * depth / 6,
                       [&](int64_t begin, int64_t end) { kernel_.multiply(block, begin, end); });
          }
        }
      }
    }
    if (out_of_memory) return absl::ResourceExhaustedError("conv2d: out of memory");
    return absl::OkStatus();
  }

  const Conv2D kernel_;
  const QuantizeFn quantize_;
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
    return MultiplyOnGpu(ctx, gemm_, a, b, seed, c, size, gpu,
                         [&](const GpuConv2DTask& task) { LaunchConv2D(task, CudaStream(ctx)); });
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
