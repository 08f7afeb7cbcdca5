// OpKernels of Lowprec>AdaCompEncode and Lowprec>AdaCompDecode: attributes, checks, threads. The
// work is done in adacomp_codec.cc.
#include "cc/kernels/adacomp_codec.h"
#include "cc/kernels/op_threads.h"
#include "cc/kernels/op_util.h"
#include "cc/numerics/adacomp_packet.h"
#include "tensorflow/core/framework/op_kernel.h"

namespace tf_lowprec {
namespace {

using ::tensorflow::DEVICE_CPU;
using ::tensorflow::OpInputList;
using ::tensorflow::OpKernel;
using ::tensorflow::OpKernelConstruction;
using ::tensorflow::OpKernelContext;
using ::tensorflow::Tensor;
using ::tensorflow::TensorShape;

AdaCompRun Threads(OpKernelContext* ctx) {
  return [ctx](int64_t total, int64_t cost, const std::function<void(int64_t, int64_t)>& work) {
    RunSharded(ctx, total, cost, work);
  };
}

class AdaCompEncodeCpuOp : public OpKernel {
 public:
  explicit AdaCompEncodeCpuOp(OpKernelConstruction* ctx) : OpKernel(ctx), loops_(ChooseAdaComp()) {
    int64_t bin_size;
    OP_REQUIRES_OK(ctx, ctx->GetAttr("bin_size", &bin_size));
    OP_REQUIRES(ctx, bin_size >= 1 && bin_size <= kMaxBinSize,
                InvalidArgument("bin_size = ", bin_size, " must be in 1..", kMaxBinSize));
    task_.bin_size = static_cast<int>(bin_size);
    OP_REQUIRES_OK(ctx, ctx->GetAttr("soft_threshold", &task_.soft_threshold));
    OP_REQUIRES(ctx, task_.soft_threshold >= 1 && task_.soft_threshold <= 1024,
                InvalidArgument("soft_threshold = ", task_.soft_threshold, " must be in 1..1024"));
    std::string encoding;
    OP_REQUIRES_OK(ctx, ctx->GetAttr("encoding", &encoding));
    task_.entropy = encoding == "entropy";
  }

  void Compute(OpKernelContext* ctx) override {
    const Tensor& gradient = ctx->input(0);
    const Tensor& residue = ctx->input(1);
    OP_REQUIRES(
        ctx, residue.shape() == gradient.shape(),
        InvalidArgument("residue must have the gradient's shape ", gradient.shape().DebugString(),
                        ", got ", residue.shape().DebugString()));
    Tensor* new_residue = nullptr;
    OP_REQUIRES_OK(ctx, ctx->allocate_output(1, gradient.shape(), &new_residue));
    AdaCompTask task = task_;
    task.num_elements = gradient.NumElements();
    task.gradient = gradient.flat<float>().data();
    task.residue = residue.flat<float>().data();
    task.new_residue = new_residue->flat<float>().data();
    PreferHugePages(task.new_residue, task.num_elements * static_cast<int64_t>(sizeof(float)));
    const ScopedDenormals denormals;  // the sum of maxima is taken in this thread
    AdaCompEncoder encoder(task, loops_, Threads(ctx));
    const int64_t words = encoder.Select();
    OP_REQUIRES(ctx, words <= kMaxPacketWords,
                InvalidArgument("a packet of ", words, " words for a gradient of ",
                                task.num_elements, " elements is too long: at most 2^31 - 1"));
    Tensor* packet = nullptr;
    OP_REQUIRES_OK(ctx, ctx->allocate_output(0, TensorShape({words}), &packet));
    encoder.Write(reinterpret_cast<uint32_t*>(packet->flat<int32_t>().data()));
  }

 private:
  AdaCompTask task_;
  const AdaCompLoops loops_;
};

class AdaCompDecodeCpuOp : public OpKernel {
 public:
  using OpKernel::OpKernel;

  void Compute(OpKernelContext* ctx) override {
    OpInputList packets;
    OP_REQUIRES_OK(ctx, ctx->input_list("packets", &packets));
    const Tensor& size = ctx->input(packets.size());
    OP_REQUIRES(ctx, size.dims() == 0 && size.scalar<int64_t>()() >= 0,
                InvalidArgument("num_elements must be one number >= 0, got ", size.DebugString()));
    const int64_t num_elements = size.scalar<int64_t>()();
    const AdaCompRun run = Threads(ctx);
    const auto words = [&packets](int i) {
      return reinterpret_cast<const uint32_t*>(packets[i].flat<int32_t>().data());
    };
    // Nothing is written before every packet is known to be sound.
    for (int i = 0; i < packets.size(); ++i) {
      OP_REQUIRES(ctx, packets[i].dims() == 1,
                  InvalidArgument("packets[", i, "] must have one dimension, got shape ",
                                  packets[i].shape().DebugString()));
      const char* problem =
          CheckAdaCompPacket(words(i), packets[i].NumElements(), num_elements, run);
      OP_REQUIRES(ctx, problem == nullptr,
                  InvalidArgument("packets[", i, "] (", packets[i].NumElements(),
                                  " words, num_elements = ", num_elements,
                                  ") is no sound AdaComp packet: ", problem));
    }
    Tensor* gradient = nullptr;
    OP_REQUIRES_OK(ctx, ctx->allocate_output(0, TensorShape({num_elements}), &gradient));
    float* y = gradient->flat<float>().data();
    PreferHugePages(y, num_elements * static_cast<int64_t>(sizeof(float)));
    for (int i = 0; i < packets.size(); ++i) AddAdaCompPacket(words(i), i == 0, y, run);
  }
};

REGISTER_KERNEL_BUILDER(Name("Lowprec>AdaCompEncode").Device(DEVICE_CPU), AdaCompEncodeCpuOp);
REGISTER_KERNEL_BUILDER(Name("Lowprec>AdaCompDecode").Device(DEVICE_CPU), AdaCompDecodeCpuOp);

}  // namespace
}  // namespace tf_lowprec
