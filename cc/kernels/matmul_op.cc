// OpKernel of Lowprec>MatMul: attributes, checks, threads. The loops are in matmul_loops.h.
#include <vector>

#include "cc/kernels/matmul.h"
#include "cc/kernels/op_gemm.h"
#include "cc/kernels/op_threads.h"
#include "cc/kernels/op_util.h"
#include "cc/numerics/accumulate.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/util/matmul_bcast.h"

namespace tf_lowprec {
namespace {

using ::tensorflow::DEVICE_CPU;
using ::tensorflow::MatMulBCast;
using ::tensorflow::OpInputList;
using ::tensorflow::OpKernel;
using ::tensorflow::OpKernelConstruction;
using ::tensorflow::OpKernelContext;
using ::tensorflow::Tensor;
using ::tensorflow::TensorShape;

// What both devices do: attributes, shapes, the output. Run fills a non-empty product.
class MatMulOpBase : public OpKernel {
 public:
  explicit MatMulOpBase(OpKernelConstruction* ctx) : OpKernel(ctx) {
    OP_REQUIRES_OK(ctx, ctx->GetAttr("transpose_a", &transpose_a_));
    OP_REQUIRES_OK(ctx, ctx->GetAttr("transpose_b", &transpose_b_));
    OP_REQUIRES_OK(ctx, GetGemm(ctx, &gemm_));
    task_.accumulator = gemm_.accumulator;
    task_.a_spec = gemm_.a.spec;
    task_.b_spec = gemm_.b.spec;
    task_.stream = gemm_.stream;
    int num_random_bits;
    OP_REQUIRES_OK(ctx, ctx->GetAttr("num_random_bits", &num_random_bits));
    OP_REQUIRES(ctx, num_random_bits <= 1,
                InvalidArgument("random_bits takes one tensor, got ", num_random_bits));
  }

  void Compute(OpKernelContext* ctx) override {
    const Tensor& a = ctx->input(0);
    const Tensor& b = ctx->input(1);
    OP_REQUIRES(ctx, a.dims() >= 2 && b.dims() >= 2,
                InvalidArgument("a and b must have at least two axes, got shapes ",
                                a.shape().DebugString(), " and ", b.shape().DebugString()));
    MatMulTask task = task_;
    OP_REQUIRES_OK(ctx, ReadSeed(ctx->input(2), task.seed));
    task.m = a.dim_size(a.dims() - (transpose_a_ ? 1 : 2));
    task.k = a.dim_size(a.dims() - (transpose_a_ ? 2 : 1));
    task.n = b.dim_size(b.dims() - (transpose_b_ ? 2 : 1));
    const MatMulBCast broadcast(a.shape().dim_sizes(), b.shape().dim_sizes());
    OP_REQUIRES(ctx, b.dim_size(b.dims() - (transpose_b_ ? 1 : 2)) == task.k && broadcast.IsValid(),
                InvalidArgument("a of shape ", a.shape().DebugString(), " and b of shape ",
                                b.shape().DebugString(), " do not match (transpose_a=",
                                transpose_a_, ", transpose_b=", transpose_b_, ")"));
    TensorShape shape = broadcast.output_batch_shape();
    OP_REQUIRES_OK(ctx, AddDims({task.m, task.n}, &shape));
    OP_REQUIRES_OK(ctx, ReadRandomBits(ctx, shape, &task));
    Tensor* product = nullptr;
    OP_REQUIRES_OK(ctx, ctx->allocate_output(0, shape, &product));
    if (product->NumElements() == 0) return;

    Run(ctx, a, b, broadcast, task, product->flat<float>().data(), product->NumElements());
  }

 protected:
  // task has everything but the operands.
  virtual void Run(OpKernelContext* ctx, const Tensor& a, const Tensor& b,
                   const MatMulBCast& broadcast, const MatMulTask& task, float* c,
                   int64_t size) = 0;
  // random_bits' values, where host memory holds them.
  virtual absl::Status CheckRandomBits(const int32_t* r, int64_t n) const = 0;

  GemmAttributes gemm_;
  bool transpose_a_ = false, transpose_b_ = false;

 private:
  absl::Status ReadRandomBits(OpKernelContext* ctx, const TensorShape& output,
                              MatMulTask* task) const {
    OpInputList random_bits;
    TF_RETURN_IF_ERROR(ctx->input_list("random_bits", &random_bits));
    if (random_bits.size() == 0) return absl::OkStatus();
    TensorShape shape = output;
    TF_RETURN_IF_ERROR(AddDims({task->Steps()}, &shape));
    if (random_bits[0].shape() != shape) {
      return InvalidArgument("random_bits must have shape ", shape.DebugString(),
                             " (the product's, and a value for each k and each chunk), got ",
                             random_bits[0].shape().DebugString());
    }
    task->random_bits = random_bits[0].flat<int32_t>().data();
    return CheckRandomBits(task->random_bits, random_bits[0].NumElements());
  }

  MatMulTask task_;
};

class MatMulCpuOp : public MatMulOpBase {
 public:
  explicit MatMulCpuOp(OpKernelConstruction* ctx)
      : MatMulOpBase(ctx), kernel_(ChooseMatMul()), quantize_(ChooseQuantize()) {}

 protected:
  void Run(OpKernelContext* ctx, const Tensor& a, const Tensor& b, const MatMulBCast& broadcast,
           const MatMulTask& task, float* c, int64_t size) override {
    Operand left, right;
    left.batches = broadcast.x_batch_size();
    left.pack.lanes = task.m;
    left.pack.width = kernel_.rows;
    left.pack.lanes_last = transpose_a_;
    right.batches = broadcast.y_batch_size();
    right.pack.lanes = task.n;
    right.pack.width = kernel_.columns;
    right.pack.lanes_last = !transpose_b_;
    OP_REQUIRES_OK(ctx, Prepare(ctx, a, gemm_.a, task, &left));
    OP_REQUIRES_OK(ctx, Prepare(ctx, b, gemm_.b, task, &right));
    const int64_t left_units = left.Units(), units = left_units + right.Units();
    RunSharded(ctx, units, (left.PackCost() + right.PackCost()) / std::max<int64_t>(units, 1),
               [&](int64_t begin, int64_t end) {
                 Pack(left, begin, std::min(end, left_units));
                 Pack(right, std::max(begin, left_units) - left_units, end - left_units);
               });

    const int64_t tiles = kernel_.Tiles(task.m, task.n);
    const int64_t tile_cost = int64_t{kernel_.rows} * kernel_.columns * (task.k + 1) / 6;
    RunSharded(ctx, broadcast.output_batch_size() * tiles, tile_cost,
               [&](int64_t begin, int64_t end) {
                 while (begin < end) {
                   const int64_t batch = begin / tiles, first = begin % tiles;
                   const int64_t count = std::min(tiles - first, end - begin);
                   MatMulTask part = task;
                   const bool own = !broadcast.IsBroadcastingRequired();
                   const int64_t i = own ? batch : broadcast.x_batch_indices()[batch];
                   const int64_t j = own ? batch : broadcast.y_batch_indices()[batch];
                   part.a = left.At(i);
                   part.a_range = left.RangeAt(i);
                   part.b = right.At(j);
                   part.b_range = right.RangeAt(j);
                   part.a_bounds = left.BoundsAt(i);
                   part.b_bounds = right.BoundsAt(j);
                   part.index = batch * task.m * task.n;
                   part.c = c + part.index;
                   if (part.random_bits != nullptr) part.random_bits += part.index * task.Steps();
                   kernel_.multiply(part, first, first + count);
                   begin += count;
                 }
               });
    if (gemm_.rounds_output) RoundSharded(ctx, gemm_.output, task.seed, quantize_, c, c, size);
  }

  absl::Status CheckRandomBits(const int32_t* r, int64_t n) const override {
    for (int64_t i = 0; i < n; ++i) {
      if (r[i] < 0 || r[i] >= 1 << kAccumulatorRandomBits) {
        return InvalidArgument("random_bits[", i, "] = ", r[i],
                               " (flat index) must be in 0..2^16-1");
      }
    }
    return absl::OkStatus();
  }

 private:
  // An operand's panels, batch after batch.
  struct Operand {
    int64_t batches = 1;
    PackTask pack;  // of the first batch
    std::vector<QuantizeTask> stages;
    Tensor packed, bounds;
    std::vector<PanelRange> ranges;

    int64_t Units() const { return batches * MatMul::PackUnits(pack); }
    // In CPU cycles.
    int64_t PackCost() const {
      return batches * pack.lanes * pack.k * (1 + 2 * static_cast<int64_t>(stages.size()));
    }
    int64_t BatchSize() const { return pack.Panels() * pack.width * pack.k; }
    const float* At(int64_t batch) const {
      return packed.flat<float>().data() + batch * BatchSize();
    }
    PanelRange* RangeAt(int64_t batch) { return ranges.data() + batch * pack.Panels(); }
    int16_t* BoundsAt(int64_t batch) {
      const int64_t size = 2 * pack.Panels() * pack.k;
      return pack.bounds == nullptr ? nullptr : pack.bounds + batch * size;
    }
  };

  // Room for an operand of which `pack` has lanes, width and layout, and how it is rounded.
  absl::Status Prepare(OpKernelContext* ctx, const Tensor& x, const OperandRounding& rounding,
                       const MatMulTask& task, Operand* out) const {
    out->stages = rounding.stages;
    for (QuantizeTask& stage : out->stages) SetSeed(task.seed, &stage);
    PackTask& pack = out->pack;
    pack.x = x.flat<float>().data();
    pack.k = task.k;
    pack.spec = rounding.spec;
    pack.stages = out->stages.data();
    pack.num_stages = static_cast<int>(out->stages.size());
    out->ranges.resize(out->batches * pack.Panels());
    TF_RETURN_IF_ERROR(ctx->allocate_temp(
        ::tensorflow::DT_FLOAT, TensorShape({out->batches * out->BatchSize()}), &out->packed));
    pack.packed = out->packed.flat<float>().data();
    if (!kernel_.wants_bounds(task)) return absl::OkStatus();
    TF_RETURN_IF_ERROR(ctx->allocate_temp(::tensorflow::DT_INT16,
                                          TensorShape({2 * out->batches * pack.Panels() * pack.k}),
                                          &out->bounds));
    pack.bounds = out->bounds.flat<int16_t>().data();
    return absl::OkStatus();
  }

  // Some of its units, none if end <= begin.
  void Pack(Operand& operand, int64_t begin, int64_t end) const {
    const int64_t units = MatMul::PackUnits(operand.pack);
    while (begin < end) {
      const int64_t batch = begin / units, first = begin % units;
      const int64_t count = std::min(units - first, end - begin);
      PackTask part = operand.pack;
      part.index = batch * part.lanes * part.k;
      part.x += part.index;
      part.packed += batch * operand.BatchSize();
      part.range = operand.RangeAt(batch);
      part.bounds = operand.BoundsAt(batch);
      kernel_.pack(part, first, first + count);
      begin += count;
    }
  }

  const MatMul kernel_;
  const QuantizeFn quantize_;
};

REGISTER_KERNEL_BUILDER(Name("Lowprec>MatMul").Device(DEVICE_CPU).HostMemory("seed"), MatMulCpuOp);

#if GOOGLE_CUDA
class MatMulGpuOp : public MatMulOpBase {
 public:
  using MatMulOpBase::MatMulOpBase;

 protected:
  void Run(OpKernelContext* ctx, const Tensor& a, const Tensor& b, const MatMulBCast& broadcast,
           const MatMulTask& task, float* c, int64_t size) override {
    GpuMatMulTask gpu;
    gpu.m = task.m;
    gpu.n = task.n;
    gpu.k = task.k;
    gpu.a_step = task.m * task.k;
    gpu.b_step = task.k * task.n;
    gpu.transpose_a = transpose_a_;
    gpu.transpose_b = transpose_b_;
    gpu.random_bits = task.random_bits;
    const int64_t batches = broadcast.output_batch_size();
    const auto launch = [&](const GpuMatMulTask& whole) {
      GpuMatMulTask part = whole;
      if (!broadcast.IsBroadcastingRequired()) {
        part.batches = batches;
        return LaunchMatMul(part, CudaStream(ctx));
      }
      for (int64_t batch = 0; batch < batches; ++batch) {
        part.a = whole.a + broadcast.x_batch_indices()[batch] * whole.a_step;
        part.b = whole.b + broadcast.y_batch_indices()[batch] * whole.b_step;
        part.index = batch * whole.m * whole.n;
        part.c = whole.c + part.index;
        if (whole.random_bits != nullptr) {
          part.random_bits = whole.random_bits + part.index * task.Steps();
        }
        const char* const error = LaunchMatMul(part, CudaStream(ctx));
        if (error != nullptr) return error;
      }
      return static_cast<const char*>(nullptr);
    };
    OP_REQUIRES_OK(ctx, MultiplyOnGpu(ctx, gemm_, a, b, task.seed, c, size, gpu, launch));
  }

  // On the device; the kernel takes them modulo 2^16.
  absl::Status CheckRandomBits(const int32_t*, int64_t) const override { return absl::OkStatus(); }
};

REGISTER_KERNEL_BUILDER(Name("Lowprec>MatMul").Device(::tensorflow::DEVICE_GPU).HostMemory("seed"),
                        MatMulGpuOp);
#endif

}  // namespace
}  // namespace tf_lowprec
