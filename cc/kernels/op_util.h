// What every OpKernel of ours shares: errors, and the `format` and `rounding` attributes, read once
// per kernel.
#ifndef TF_LOWPREC_CC_KERNELS_OP_UTIL_H_
#define TF_LOWPREC_CC_KERNELS_OP_UTIL_H_

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include <cstdint>
#include <initializer_list>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "cc/kernels/quantize.h"
#include "cc/numerics/format_spec.h"
#include "tensorflow/core/framework/op_kernel.h"
#if GOOGLE_CUDA
#include "xla/stream_executor/stream.h"
#endif

namespace tf_lowprec {

template <typename... Args>
absl::Status InvalidArgument(const Args&... args) {
  return absl::InvalidArgumentError(absl::StrCat(args...));
}

inline absl::Status GetFormat(::tensorflow::OpKernelConstruction* ctx, Format* format,
                              const char* name = "format") {
  std::string spec;
  TF_RETURN_IF_ERROR(ctx->GetAttr(name, &spec));
  const std::string problem = ParseFormat(spec, format);
  if (!problem.empty()) return InvalidArgument(problem);
  return absl::OkStatus();
}

inline absl::Status GetRounding(::tensorflow::OpKernelConstruction* ctx, Rounding* rounding,
                                const char* attribute = "rounding") {
  std::string name;
  TF_RETURN_IF_ERROR(ctx->GetAttr(attribute, &name));
  if (!ParseRounding(name, rounding)) {
    return InvalidArgument("unknown rounding '", name, "'");
  }
  return absl::OkStatus();
}

// A QuantizeTask without data.
inline QuantizeTask MakeQuantizeTask(const Format& format, Rounding rounding, int64_t stream) {
  QuantizeTask task;
  task.is_fixed = format.is_fixed;
  task.exponent_bits = format.floating.exponent_bits;
  task.mantissa_bits = format.floating.mantissa_bits;
  task.specials = static_cast<int>(format.floating.specials);
  task.saturate = format.floating.saturate;
  task.subnormals = format.floating.subnormals;
  task.integer_bits = format.fixed.integer_bits;
  task.fractional_bits = format.fixed.fractional_bits;
  task.rounding = static_cast<int>(rounding);
  task.stream = static_cast<uint64_t>(stream);
  return task;
}

// Adds axes to a shape, whose elements may then be too many to count: an error.
inline absl::Status AddDims(std::initializer_list<int64_t> sizes,
                            ::tensorflow::TensorShape* shape) {
  for (const int64_t size : sizes) TF_RETURN_IF_ERROR(shape->AddDimWithStatus(size));
  return absl::OkStatus();
}

// The seed lives in host memory on every device.
inline absl::Status ReadSeed(const ::tensorflow::Tensor& seed, uint32_t key[2]) {
  if (seed.dims() != 1 || seed.dim_size(0) != 2) {
    return InvalidArgument("seed must have shape [2], got ", seed.shape().DebugString());
  }
  for (int i = 0; i < 2; ++i) {
    key[i] = seed.dtype() == ::tensorflow::DT_INT32
                 ? static_cast<uint32_t>(seed.flat<int32_t>()(i))
                 : static_cast<uint32_t>(seed.flat<int64_t>()(i));
  }
  return absl::OkStatus();
}

#if GOOGLE_CUDA
// Of what a launch returns.
inline absl::Status LaunchStatus(const char* error) {
  return error == nullptr
             ? absl::OkStatus()
             : absl::InternalError(absl::StrCat("a CUDA kernel could not start: ", error));
}

// The cudaStream_t that a GPU kernel has to use.
inline void* CudaStream(::tensorflow::OpKernelContext* ctx) {
  return ctx->op_device_context()->stream()->platform_specific_handle().stream;
}
#endif

// Asks the system to back a large, freshly allocated buffer with huge pages. TensorFlow takes such
// buffers straight from the system, so that a kernel that only streams through memory spends most
// of its time in page faults, of which 2 MiB pages need 512 times fewer.
inline void PreferHugePages(void* data, int64_t bytes) {
#if defined(__linux__)
  constexpr uintptr_t kHugePage = uintptr_t{1} << 21;
  const uintptr_t begin = (reinterpret_cast<uintptr_t>(data) + kHugePage - 1) & ~(kHugePage - 1);
  const uintptr_t end = (reinterpret_cast<uintptr_t>(data) + bytes) & ~(kHugePage - 1);
  // A hint: where it is refused, everything works as before.
  if (end > begin) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#endif
}

}  // namespace tf_lowprec

#endif  // TF_LOWPREC_CC_KERNELS_OP_UTIL_H_
