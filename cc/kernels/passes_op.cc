// Kernels of the ops that are the identity forward (cc/ops/passes.cc): they hand on their first
// input's buffer, on any device.
#include "cc/kernels/op_util.h"
#include "tensorflow/core/framework/op_kernel.h"

namespace tf_lowprec {
namespace {

using ::tensorflow::DEVICE_CPU;
using ::tensorflow::DEVICE_GPU;
using ::tensorflow::OpKernel;
using ::tensorflow::OpKernelContext;

class PassOp : public OpKernel {
 public:
  using OpKernel::OpKernel;

  void Compute(OpKernelContext* ctx) override {
    // The shape function sees to the rest; only the seed's shape can be wrong at run time.
    const ::tensorflow::TensorShape& seed = ctx->input(ctx->num_inputs() - 1).shape();
    OP_REQUIRES(ctx, seed.dims() == 1 && seed.dim_size(0) == 2,
                InvalidArgument("seed must have shape [2], got ", seed.DebugString()));
    ctx->set_output(0, ctx->input(0));
  }

  bool IsExpensive() override { return false; }
};

#define REGISTER(NAME)                                            \
  REGISTER_KERNEL_BUILDER(Name(NAME).Device(DEVICE_CPU), PassOp); \
  REGISTER_KERNEL_BUILDER(Name(NAME).Device(DEVICE_GPU).HostMemory("seed"), PassOp)
REGISTER("Lowprec>MatMulPasses");
REGISTER("Lowprec>Conv2DPasses");
REGISTER("Lowprec>AddBiasPasses");
REGISTER("Lowprec>RoundError");
#undef REGISTER

}  // namespace
}  // namespace tf_lowprec
