// What the OpKernels of narrow accumulators share: the attributes that describe a GEMM.
#ifndef TF_LOWPREC_CC_KERNELS_OP_GEMM_H_
#define TF_LOWPREC_CC_KERNELS_OP_GEMM_H_

#include <algorithm>
#include <string>
#include <vector>

#include "cc/kernels/matmul.h"
#include "cc/kernels/op_threads.h"
#include "cc/kernels/op_util.h"
#include "tensorflow/core/framework/op_kernel.h"

namespace tf_lowprec {

// How one operand is rounded, from the attributes NAME_formats, NAME_roundings and NAME_streams.
struct OperandRounding {
  std::vector<QuantizeTask> stages;
  OperandSpec spec;
};

inline absl::Status GetOperand(::tensorflow::OpKernelConstruction* ctx, const std::string& name,
                               OperandRounding* out) {
  std::vector<std::string> formats, roundings;
  std::vector<int64_t> streams;
  TF_RETURN_IF_ERROR(ctx->GetAttr(name + "_formats", &formats));
  TF_RETURN_IF_ERROR(ctx->GetAttr(name + "_roundings", &roundings));
  TF_RETURN_IF_ERROR(ctx->GetAttr(name + "_streams", &streams));
  if (formats.size() != roundings.size() || formats.size() != streams.size()) {
    return InvalidArgument(name, "_formats, ", name, "_roundings and ", name,
                           "_streams must have equal lengths, got ", formats.size(), ", ",
                           roundings.size(), " and ", streams.size());
  }
  for (size_t i = 0; i < formats.size(); ++i) {
    Format format;
    const std::string problem = ParseFormat(formats[i], &format);
    if (!problem.empty()) return InvalidArgument(name, "_formats: ", problem);
    Rounding rounding = Rounding::kNearestEven;
    if (!ParseRounding(roundings[i], &rounding)) {
      return InvalidArgument(name, "_roundings: unknown rounding '", roundings[i], "'");
    }
    if (streams[i] < 0) {
      return InvalidArgument(name, "_streams has ", streams[i], "; it must be in 0..2^63-1");
    }
    out->stages.push_back(MakeQuantizeTask(format, rounding, streams[i]));
    const FloatFormat& f = format.floating;
    const int word = format.fixed.integer_bits + format.fixed.fractional_bits;
    out->spec.bits = format.is_fixed ? (word > 1 ? word - 1 : 1) : f.mantissa_bits + 1;
    out->spec.min_quantum =
        format.is_fixed ? -format.fixed.fractional_bits : FloatMinExponent(f) - f.mantissa_bits;
  }
  return absl::OkStatus();
}

struct GemmAttributes {
  OperandRounding a, b;
  AccumulatorSpec accumulator;
  uint64_t stream = 0;  // of stochastic accumulators
  bool rounds_output = false;
  QuantizeTask output;
};

inline absl::Status GetGemm(::tensorflow::OpKernelConstruction* ctx, GemmAttributes* gemm) {
  TF_RETURN_IF_ERROR(GetOperand(ctx, "a", &gemm->a));
  TF_RETURN_IF_ERROR(GetOperand(ctx, "b", &gemm->b));
  Format format;
  TF_RETURN_IF_ERROR(GetFormat(ctx, &format, "accumulator"));
  if (format.is_fixed) {
    return InvalidArgument("accumulator must be a float format, got fixed point");
  }
  Rounding rounding = Rounding::kNearestEven;
  TF_RETURN_IF_ERROR(GetRounding(ctx, &rounding));
  AccumulatorSpec& spec = gemm->accumulator;
  spec.exponent_bits = format.floating.exponent_bits;
  spec.mantissa_bits = format.floating.mantissa_bits;
  spec.specials = static_cast<int>(format.floating.specials);
  spec.saturate = format.floating.saturate;
  spec.subnormals = format.floating.subnormals;
  spec.rounding = static_cast<int>(rounding);
  TF_RETURN_IF_ERROR(ctx->GetAttr("chunk", &spec.chunk));
  int64_t stream;
  TF_RETURN_IF_ERROR(ctx->GetAttr("stream", &stream));
  gemm->stream = static_cast<uint64_t>(stream);
  std::string output_format;
  TF_RETURN_IF_ERROR(ctx->GetAttr("output_format", &output_format));
  gemm->rounds_output = !output_format.empty();
  if (!gemm->rounds_output) return absl::OkStatus();
  TF_RETURN_IF_ERROR(GetFormat(ctx, &format, "output_format"));
  TF_RETURN_IF_ERROR(GetRounding(ctx, &rounding, "output_rounding"));
  TF_RETURN_IF_ERROR(ctx->GetAttr("output_stream", &stream));
  gemm->output = MakeQuantizeTask(format, rounding, stream);
  return absl::OkStatus();
}

inline void SetSeed(const uint32_t seed[2], QuantizeTask* task) {
  task->seed[0] = seed[0];
  task->seed[1] = seed[1];
}

// Rounds n elements from x to y, or in place.
inline void RoundSharded(::tensorflow::OpKernelContext* ctx, QuantizeTask task,
                         const uint32_t seed[2], QuantizeFn quantize, const float* x, float* y,
                         int64_t n) {
  task.x32 = x;
  task.y = y;
  SetSeed(seed, &task);
  const int64_t grains = (n + kQuantizeGrain - 1) / kQuantizeGrain;
  RunSharded(ctx, grains, kQuantizeGrain * 2, [&](int64_t begin, int64_t end) {
    quantize(task, begin * kQuantizeGrain, std::min(end * kQuantizeGrain, n));
  });
}

#if GOOGLE_CUDA
// Rounds n elements from x to y, or in place, all in device memory.
inline absl::Status RoundOnGpu(::tensorflow::OpKernelContext* ctx, QuantizeTask task,
                               const uint32_t seed[2], const float* x, float* y, int64_t n) {
  task.x32 = x;
  task.y = y;
  SetSeed(seed, &task);
  return LaunchStatus(LaunchQuantize(task, n, CudaStream(ctx)));
}

// x after its roundings; x itself if there are none.
inline absl::Status RoundOperandOnGpu(::tensorflow::OpKernelContext* ctx,
                                      const ::tensorflow::Tensor& x,
                                      const OperandRounding& rounding, const uint32_t seed[2],
                                      ::tensorflow::Tensor* out) {
  *out = x;
  if (rounding.stages.empty() || x.NumElements() == 0) return absl::OkStatus();
  TF_RETURN_IF_ERROR(ctx->allocate_temp(::tensorflow::DT_FLOAT, x.shape(), out));
  const float* from = x.flat<float>().data();
  float* to = out->flat<float>().data();
  for (const QuantizeTask& stage : rounding.stages) {
    TF_RETURN_IF_ERROR(RoundOnGpu(ctx, stage, seed, from, to, x.NumElements()));
    from = to;
  }
  return absl::OkStatus();
}

// A product on the GPU: operands rounded into memory of their own, launch(task), the result
// rounded. `task` has what launch needs but for a, b, c, the accumulator, seed and stream.
template <typename Task, typename Launch>
absl::Status MultiplyOnGpu(::tensorflow::OpKernelContext* ctx, const GemmAttributes& gemm,
                           const ::tensorflow::Tensor& a, const ::tensorflow::Tensor& b,
                           const uint32_t seed[2], float* c, int64_t size, Task task,
                           const Launch& launch) {
  ::tensorflow::Tensor rounded_a, rounded_b;
  TF_RETURN_IF_ERROR(RoundOperandOnGpu(ctx, a, gemm.a, seed, &rounded_a));
  TF_RETURN_IF_ERROR(RoundOperandOnGpu(ctx, b, gemm.b, seed, &rounded_b));
  ::tensorflow::Tensor scratch;
  TF_RETURN_IF_ERROR(ctx->allocate_temp(
      ::tensorflow::DT_UINT8, ::tensorflow::TensorShape({sizeof(GpuGemmScratch)}), &scratch));
  task.scratch = reinterpret_cast<GpuGemmScratch*>(scratch.flat<uint8_t>().data());
  task.a_spec = gemm.a.spec;
  task.b_spec = gemm.b.spec;
  task.a = rounded_a.flat<float>().data();
  task.b = rounded_b.flat<float>().data();
  task.c = c;
  task.accumulator = gemm.accumulator;
  task.seed[0] = seed[0];
  task.seed[1] = seed[1];
  task.stream = gemm.stream;
  TF_RETURN_IF_ERROR(LaunchStatus(launch(task)));
  return gemm.rounds_output ? RoundOnGpu(ctx, gemm.output, seed, c, c, size) : absl::OkStatus();
}
#endif  // GOOGLE_CUDA

}  // namespace tf_lowprec

#endif  // TF_LOWPREC_CC_KERNELS_OP_GEMM_H_
