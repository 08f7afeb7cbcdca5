// Kernels of Lowprec>ToBits and Lowprec>FromBits. Storage is no hot path, and a wrong value must be
// named in the error: on a GPU's graph they run on the host too.
#include <string>

#include "cc/kernels/float_mode.h"
#include "cc/kernels/op_util.h"
#include "cc/numerics/bits.h"
#include "tensorflow/core/framework/op_kernel.h"

namespace tf_lowprec {
namespace {

using ::tensorflow::DEVICE_CPU;
using ::tensorflow::DEVICE_GPU;
using ::tensorflow::OpKernel;
using ::tensorflow::OpKernelConstruction;
using ::tensorflow::OpKernelContext;
using ::tensorflow::Tensor;

template <typename T>
class BitsOp : public OpKernel {
 public:
  explicit BitsOp(OpKernelConstruction* ctx) : OpKernel(ctx) {
    OP_REQUIRES_OK(ctx, GetFormat(ctx, &format_));
    OP_REQUIRES_OK(ctx, ctx->GetAttr("format", &spec_));
    const int width = CodeBits(format_);
    const int holds = static_cast<int>(sizeof(T)) * 8;
    OP_REQUIRES(ctx, width <= holds,
                InvalidArgument("format '", spec_, "' has ", width, " bits, its integers only ",
                                holds, ": use a wider type"));
  }

 protected:
  Format format_;
  std::string spec_;
};

template <typename T>
class ToBitsOp : public BitsOp<T> {
 public:
  using BitsOp<T>::BitsOp;

  void Compute(OpKernelContext* ctx) override {
    const ScopedDenormals denormals;
    const Tensor& x = ctx->input(0);
    Tensor* bits = nullptr;
    OP_REQUIRES_OK(ctx, ctx->allocate_output(0, x.shape(), &bits));
    const auto values = x.flat<float>();
    auto codes = bits->flat<T>();
    for (int64_t i = 0; i < values.size(); ++i) {
      int32_t code = 0;
      const CodeStatus status = Encode(values(i), this->format_, &code);
      OP_REQUIRES(ctx, status == CodeStatus::kOk,
                  InvalidArgument("x[", i, "] = ", values(i), " (flat index) ", Reason(status),
                                  " format '", this->spec_, "'; round it first: quantize(x)"));
      codes(i) = static_cast<T>(code);
    }
  }

 private:
  static const char* Reason(CodeStatus status) {
    switch (status) {
      case CodeStatus::kNoNan:
        return "has no code: there is no NaN in";
      case CodeStatus::kNoInf:
        return "has no code: there is no infinity in";
      case CodeStatus::kOutOfRange:
        return "is beyond the range of";
      default:
        return "is not on the grid of";
    }
  }
};

template <typename T>
class FromBitsOp : public BitsOp<T> {
 public:
  using BitsOp<T>::BitsOp;

  void Compute(OpKernelContext* ctx) override {
    const ScopedDenormals denormals;
    const Tensor& bits = ctx->input(0);
    Tensor* x = nullptr;
    OP_REQUIRES_OK(ctx, ctx->allocate_output(0, bits.shape(), &x));
    const auto codes = bits.flat<T>();
    auto values = x->flat<float>();
    for (int64_t i = 0; i < codes.size(); ++i) {
      const CodeStatus status = Decode(codes(i), this->format_, &values(i));
      OP_REQUIRES(ctx, status == CodeStatus::kOk,
                  InvalidArgument("bits[", i, "] = ", static_cast<int32_t>(codes(i)),
                                  " (flat index) is no code of format '", this->spec_, "'"));
    }
  }
};

#define REGISTER_ON(NAME, KERNEL, T)                                                           \
  REGISTER_KERNEL_BUILDER(Name(NAME).Device(DEVICE_CPU).TypeConstraint<T>("T"), KERNEL<T>);    \
  REGISTER_KERNEL_BUILDER(                                                                     \
      Name(NAME).Device(DEVICE_GPU).HostMemory("x").HostMemory("bits").TypeConstraint<T>("T"), \
      KERNEL<T>)
#define REGISTER(T)                           \
  REGISTER_ON("Lowprec>ToBits", ToBitsOp, T); \
  REGISTER_ON("Lowprec>FromBits", FromBitsOp, T)
REGISTER(int8_t);
REGISTER(int16_t);
REGISTER(int32_t);
#undef REGISTER
#undef REGISTER_ON

}  // namespace
}  // namespace tf_lowprec
