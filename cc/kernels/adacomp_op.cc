// OpKernels of Lowprec>AdaCompEncode and Lowprec>AdaCompDecode: attributes, checks, threads. The
// work is done in adacomp_codec.cc and adacomp_gpu.cu.cc. Packets are in host memory on every
// device: they are on their way to others, and TensorFlow keeps int32 there.
#include <memory>
#include <string>
#include <vector>

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

class AdaCompEncodeOpBase : public OpKernel {
 public:
  explicit AdaCompEncodeOpBase(OpKernelConstruction* ctx) : OpKernel(ctx) {
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
    Encode(ctx, task);
  }

 protected:
  // Writes task.new_residue, and the packet by AllocatePacket.
  virtual void Encode(OpKernelContext* ctx, const AdaCompTask& task) = 0;

  absl::Status AllocatePacket(OpKernelContext* ctx, const AdaCompTask& task, int64_t words,
                              uint32_t** packet) {
    if (words > kMaxPacketWords) {
      return InvalidArgument("a packet of ", words, " words for a gradient of ", task.num_elements,
                             " elements is too long: at most 2^31 - 1");
    }
    Tensor* output = nullptr;
    TF_RETURN_IF_ERROR(ctx->allocate_output(0, TensorShape({words}), &output));
    *packet = reinterpret_cast<uint32_t*>(output->flat<int32_t>().data());
    return absl::OkStatus();
  }

 private:
  AdaCompTask task_;
};

class AdaCompEncodeCpuOp : public AdaCompEncodeOpBase {
 public:
  explicit AdaCompEncodeCpuOp(OpKernelConstruction* ctx)
      : AdaCompEncodeOpBase(ctx), loops_(ChooseAdaComp()) {}

 protected:
  void Encode(OpKernelContext* ctx, const AdaCompTask& task) override {
    PreferHugePages(task.new_residue, task.num_elements * static_cast<int64_t>(sizeof(float)));
    const ScopedDenormals denormals;  // the sum of maxima is taken in this thread
    AdaCompEncoder encoder(task, loops_, Threads(ctx));
    uint32_t* packet = nullptr;
    OP_REQUIRES_OK(ctx, AllocatePacket(ctx, task, encoder.Select(), &packet));
    encoder.Write(packet);
  }

 private:
  const AdaCompLoops loops_;
};

class AdaCompDecodeOpBase : public OpKernel {
 public:
  using OpKernel::OpKernel;

  void Compute(OpKernelContext* ctx) override {
    OpInputList packets;
    OP_REQUIRES_OK(ctx, ctx->input_list("packets", &packets));
    const Tensor& size = ctx->input(packets.size());
    OP_REQUIRES(ctx, size.dims() == 0 && size.scalar<int64_t>()() >= 0,
                InvalidArgument("num_elements must be one number >= 0, got ", size.DebugString()));
    const int64_t num_elements = size.scalar<int64_t>()();
    for (int i = 0; i < packets.size(); ++i) {
      OP_REQUIRES(ctx, packets[i].dims() == 1,
                  InvalidArgument("packets[", i, "] must have one dimension, got shape ",
                                  packets[i].shape().DebugString()));
    }
    Decode(ctx, packets, num_elements);
  }

 protected:
  // Nothing is to be allocated or written before every packet is known to be sound.
  virtual void Decode(OpKernelContext* ctx, const OpInputList& packets, int64_t num_elements) = 0;

  static const uint32_t* Words(const Tensor& packet) {
    return reinterpret_cast<const uint32_t*>(packet.flat<int32_t>().data());
  }

  static absl::Status Unsound(int i, const Tensor& packet, int64_t num_elements,
                              const char* problem) {
    return InvalidArgument("packets[", i, "] (", packet.NumElements(),
                           " words, num_elements = ", num_elements,
                           ") is no sound AdaComp packet: ", problem);
  }
};

class AdaCompDecodeCpuOp : public AdaCompDecodeOpBase {
 public:
  explicit AdaCompDecodeCpuOp(OpKernelConstruction* ctx)
      : AdaCompDecodeOpBase(ctx), loops_(ChooseAdaComp()) {}

 protected:
  void Decode(OpKernelContext* ctx, const OpInputList& packets, int64_t num_elements) override {
    const AdaCompRun run = Threads(ctx);
    for (int i = 0; i < packets.size(); ++i) {
      const char* problem = CheckAdaCompPacket(Words(packets[i]), packets[i].NumElements(),
                                               num_elements, loops_, run);
      OP_REQUIRES(ctx, problem == nullptr, Unsound(i, packets[i], num_elements, problem));
    }
    Tensor* gradient = nullptr;
    OP_REQUIRES_OK(ctx, ctx->allocate_output(0, TensorShape({num_elements}), &gradient));
    float* y = gradient->flat<float>().data();
    PreferHugePages(y, num_elements * static_cast<int64_t>(sizeof(float)));
    for (int i = 0; i < packets.size(); ++i) {
      AddAdaCompPacket(Words(packets[i]), i == 0, y, loops_, run);
    }
  }

 private:
  const AdaCompLoops loops_;
};

REGISTER_KERNEL_BUILDER(Name("Lowprec>AdaCompEncode").Device(DEVICE_CPU), AdaCompEncodeCpuOp);
REGISTER_KERNEL_BUILDER(Name("Lowprec>AdaCompDecode").Device(DEVICE_CPU), AdaCompDecodeCpuOp);

#if GOOGLE_CUDA

constexpr const char* kGpuFailed = "the GPU failed, or has too little memory left, for an ";

// Device memory that lives as long as `owned`; the stream's order keeps it from being used again
// too early.
GpuAllocate TemporaryMemory(OpKernelContext* ctx, std::vector<Tensor>* owned) {
  return [ctx, owned](int64_t bytes) -> void* {
    Tensor memory;
    if (!ctx->allocate_temp(::tensorflow::DT_UINT8, TensorShape({bytes}), &memory).ok()) {
      return nullptr;
    }
    owned->push_back(memory);
    return memory.flat<uint8_t>().data();
  };
}

class AdaCompEncodeGpuOp : public AdaCompEncodeOpBase {
 public:
  using AdaCompEncodeOpBase::AdaCompEncodeOpBase;

 protected:
  void Encode(OpKernelContext* ctx, const AdaCompTask& task) override {
    std::vector<Tensor> owned;
    AdaCompGpuEncoder encoder(task, TemporaryMemory(ctx, &owned), CudaStream(ctx));
    const auto failed = [&task] {
      return absl::ResourceExhaustedError(
          absl::StrCat(kGpuFailed, "AdaCompEncode of ", task.num_elements, " elements"));
    };
    const int64_t words = encoder.Select();
    OP_REQUIRES(ctx, words >= 0, failed());
    uint32_t* packet = nullptr;
    OP_REQUIRES_OK(ctx, AllocatePacket(ctx, task, words, &packet));
    OP_REQUIRES(ctx, encoder.WriteToHost(packet), failed());
  }
};

class AdaCompDecodeGpuOp : public AdaCompDecodeOpBase {
 public:
  using AdaCompDecodeOpBase::AdaCompDecodeOpBase;

 protected:
  void Decode(OpKernelContext* ctx, const OpInputList& packets, int64_t num_elements) override {
    std::vector<Tensor> owned;
    const GpuAllocate allocate = TemporaryMemory(ctx, &owned);
    std::vector<std::unique_ptr<AdaCompGpuDecoder>> decoders;
    for (int i = 0; i < packets.size(); ++i) {
      const int64_t words = packets[i].NumElements();
      const uint32_t* const packet =
          PutPacketOnGpu(Words(packets[i]), words, allocate, CudaStream(ctx));
      OP_REQUIRES(ctx, packet != nullptr,
                  absl::ResourceExhaustedError(
                      absl::StrCat(kGpuFailed, "AdaCompDecode of ", words, " words")));
      decoders.push_back(
          std::make_unique<AdaCompGpuDecoder>(packet, words, allocate, CudaStream(ctx)));
      const char* problem = decoders.back()->Check(num_elements);
      OP_REQUIRES(ctx, problem == nullptr, Unsound(i, packets[i], num_elements, problem));
    }
    Tensor* gradient = nullptr;
    OP_REQUIRES_OK(ctx, ctx->allocate_output(0, TensorShape({num_elements}), &gradient));
    for (size_t i = 0; i < decoders.size(); ++i) {
      OP_REQUIRES_OK(ctx, LaunchStatus(decoders[i]->Add(i == 0, gradient->flat<float>().data())));
    }
  }
};

REGISTER_KERNEL_BUILDER(
    Name("Lowprec>AdaCompEncode").Device(::tensorflow::DEVICE_GPU).HostMemory("packet"),
    AdaCompEncodeGpuOp);
REGISTER_KERNEL_BUILDER(Name("Lowprec>AdaCompDecode")
                            .Device(::tensorflow::DEVICE_GPU)
                            .HostMemory("packets")
                            .HostMemory("num_elements"),
                        AdaCompDecodeGpuOp);

#endif  // GOOGLE_CUDA

}  // namespace
}  // namespace tf_lowprec
