// CPU OpKernel of Lowprec>QuantizeMx: the block formats of the OCP Microscaling (MX) specification.
#include <algorithm>
#include <vector>

#include "cc/kernels/op_threads.h"
#include "cc/kernels/op_util.h"
#include "cc/numerics/philox.h"
#include "cc/numerics/rounding.h"
#include "tensorflow/core/framework/op_kernel.h"

namespace tf_lowprec {
namespace {

using ::tensorflow::DEVICE_CPU;
using ::tensorflow::OpKernel;
using ::tensorflow::OpKernelConstruction;
using ::tensorflow::OpKernelContext;
using ::tensorflow::Tensor;
using ::tensorflow::TensorShape;

constexpr uint8_t kNanScale = 255;
constexpr int kScaleBias = 127;

// floor(log2 |x|) of the bits of a finite number without the sign, not 0.
template <typename T>
int FloorLog2(typename Carrier<T>::UInt magnitude) {
  constexpr int kBits = Carrier<T>::kMantissaBits, kBias = Carrier<T>::kBias;
  const int exponent = static_cast<int>(magnitude >> kBits);
  if (exponent > 0) return exponent - kBias;
  int top = 0;
  while ((magnitude >> top) > 1) ++top;
  return top + 1 - kBias - kBits;
}

// What has no scale: infinities, NaN, and what is as far beyond float32 as they are.
template <typename T>
constexpr typename Carrier<T>::UInt kBeyond =
    static_cast<typename Carrier<T>::UInt>(Carrier<T>::kBias + 128) << Carrier<T>::kMantissaBits;

template <typename T>
struct MxTask {
  const T* x;
  float* y;
  uint8_t* scales;
  int64_t length, inner, block, blocks;  // x: [outer, length, inner]
  int max_exponent;                      // of an element
  FloatRounder<double> rounder;
  PhiloxKey key;
  uint64_t stream;
};

// Units [begin, end): (outer index, block), the block running fastest.
template <typename T, Rounding kRounding, bool kGapAtZero>
void QuantizeBlocks(const MxTask<T>& task, int64_t begin, int64_t end) {
  using Bits = typename Carrier<T>::UInt;
  constexpr Bits kMagnitude = static_cast<Bits>(~Bits{0}) >> 1;
  std::vector<Bits> largest(task.inner);
  std::vector<double> scale(task.inner);
  for (int64_t unit = begin; unit < end; ++unit) {
    const int64_t outer = unit / task.blocks, first = unit % task.blocks * task.block;
    const int64_t last = std::min(first + task.block, task.length);
    const int64_t start = outer * task.length * task.inner;
    std::fill(largest.begin(), largest.end(), 0);
    for (int64_t j = first; j < last; ++j) {
      const T* row = task.x + start + j * task.inner;
      for (int64_t i = 0; i < task.inner; ++i) {
        largest[i] = std::max(largest[i], ToBits<T>(row[i]) & kMagnitude);
      }
    }
    for (int64_t i = 0; i < task.inner; ++i) {
      uint8_t& code = task.scales[unit * task.inner + i];
      if (largest[i] >= kBeyond<T>) {
        code = kNanScale;
      } else if (largest[i] == 0) {
        code = 0;
      } else {
        const int exponent = FloorLog2<T>(largest[i]) - task.max_exponent;
        code = static_cast<uint8_t>(std::max(exponent, -kScaleBias) + kScaleBias);
      }
      scale[i] = FromBits<double>(static_cast<uint64_t>(1023 - kScaleBias + code) << 52);
    }
    for (int64_t j = first; j < last; ++j) {
      const int64_t at = start + j * task.inner;
      for (int64_t i = 0; i < task.inner; ++i) {
        if (largest[i] >= kBeyond<T>) {
          task.y[at + i] = FromBits<float>(kCanonicalNan);
          continue;
        }
        uint32_t r = 0;
        if constexpr (kRounding == Rounding::kStochastic) {
          r = RandomWord(at + i, task.stream, task.key) >> (32 - kRandomBits);
        }
        // Both products are by powers of two, and a double has room.
        const double element = static_cast<double>(task.x[at + i]) / scale[i];
        const float rounded = RoundToFloat<kRounding, kGapAtZero>(element, task.rounder, r);
        task.y[at + i] = static_cast<float>(static_cast<double>(rounded) * scale[i]);
      }
    }
  }
}

template <typename T>
using QuantizeBlocksFn = void (*)(const MxTask<T>& task, int64_t begin, int64_t end);

template <typename T>
QuantizeBlocksFn<T> Choose(Rounding rounding, bool gap) {
  switch (rounding) {
    case Rounding::kNearestUp:
      return gap ? QuantizeBlocks<T, Rounding::kNearestUp, true>
                 : QuantizeBlocks<T, Rounding::kNearestUp, false>;
    case Rounding::kStochastic:
      return gap ? QuantizeBlocks<T, Rounding::kStochastic, true>
                 : QuantizeBlocks<T, Rounding::kStochastic, false>;
    case Rounding::kTowardZero:
      return gap ? QuantizeBlocks<T, Rounding::kTowardZero, true>
                 : QuantizeBlocks<T, Rounding::kTowardZero, false>;
    case Rounding::kNearestEven:
      break;
  }
  return gap ? QuantizeBlocks<T, Rounding::kNearestEven, true>
             : QuantizeBlocks<T, Rounding::kNearestEven, false>;
}

template <typename T>
class QuantizeMxOp : public OpKernel {
 public:
  explicit QuantizeMxOp(OpKernelConstruction* ctx) : OpKernel(ctx) {
    Format format;
    OP_REQUIRES_OK(ctx, GetFormat(ctx, &format, "element"));
    OP_REQUIRES(ctx, !format.is_fixed,
                InvalidArgument("element must be a float format, got fixed point"));
    OP_REQUIRES(ctx, format.floating.exponent_bits <= 5,
                InvalidArgument("element must have at most 5 exponent bits"));
    format.floating.saturate = true;
    Rounding rounding = Rounding::kNearestEven;
    OP_REQUIRES_OK(ctx, GetRounding(ctx, &rounding));
    OP_REQUIRES_OK(ctx, ctx->GetAttr("axis", &axis_));
    OP_REQUIRES_OK(ctx, ctx->GetAttr("block", &task_.block));
    OP_REQUIRES(ctx, task_.block >= 1, InvalidArgument("block must be at least 1"));
    int64_t stream;
    OP_REQUIRES_OK(ctx, ctx->GetAttr("stream", &stream));
    task_.stream = static_cast<uint64_t>(stream);
    task_.rounder = MakeFloatRounder<double>(format.floating, rounding);
    task_.max_exponent = FloorLog2<float>(
        ToBits<float>(FloatFromCode(format.floating, FloatMaxCode(format.floating))));
    quantize_ = Choose<T>(rounding, HasGapAtZero(format.floating));
  }

  void Compute(OpKernelContext* ctx) override {
    const Tensor& x = ctx->input(0);
    const int rank = x.dims();
    OP_REQUIRES(
        ctx, axis_ >= -rank && axis_ < rank,
        InvalidArgument("axis = ", axis_, " is outside x of shape ", x.shape().DebugString()));
    const int axis = static_cast<int>(axis_ < 0 ? axis_ + rank : axis_);
    MxTask<T> task = task_;
    uint32_t key[2];
    OP_REQUIRES_OK(ctx, ReadSeed(ctx->input(1), key));
    task.key = {key[0], key[1]};
    task.length = x.dim_size(axis);
    task.blocks = (task.length + task.block - 1) / task.block;
    int64_t outer = 1;
    task.inner = 1;
    for (int i = 0; i < axis; ++i) outer *= x.dim_size(i);
    for (int i = axis + 1; i < rank; ++i) task.inner *= x.dim_size(i);
    TensorShape scales_shape = x.shape();
    scales_shape.set_dim(axis, task.blocks);
    Tensor *y = nullptr, *scales = nullptr;
    OP_REQUIRES_OK(ctx, ctx->allocate_output(0, x.shape(), &y));
    OP_REQUIRES_OK(ctx, ctx->allocate_output(1, scales_shape, &scales));
    if (x.NumElements() == 0) return;
    task.x = x.flat<T>().data();
    task.y = y->flat<float>().data();
    task.scales = scales->flat<uint8_t>().data();
    RunSharded(ctx, outer * task.blocks, task.inner * std::min(task.block, task.length) * 20,
               [&](int64_t begin, int64_t end) { quantize_(task, begin, end); });
  }

 private:
  int64_t axis_ = -1;
  MxTask<T> task_{};
  QuantizeBlocksFn<T> quantize_ = nullptr;
};

#define REGISTER(T)                                                                            \
  REGISTER_KERNEL_BUILDER(                                                                     \
      Name("Lowprec>QuantizeMx").Device(DEVICE_CPU).TypeConstraint<T>("T").HostMemory("seed"), \
      QuantizeMxOp<T>)
REGISTER(float);
REGISTER(double);
#undef REGISTER

}  // namespace
}  // namespace tf_lowprec
