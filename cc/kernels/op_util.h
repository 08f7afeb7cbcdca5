// What every OpKernel of ours shares: errors, and the `format` and `rounding` attributes, read once
// per kernel.
#ifndef TF_LOWPREC_CC_KERNELS_OP_UTIL_H_
#define TF_LOWPREC_CC_KERNELS_OP_UTIL_H_

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "cc/numerics/format_spec.h"
#include "tensorflow/core/framework/op_kernel.h"

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

inline absl::Status GetRounding(::tensorflow::OpKernelConstruction* ctx, Rounding* rounding) {
  std::string name;
  TF_RETURN_IF_ERROR(ctx->GetAttr("rounding", &name));
  if (!ParseRounding(name, rounding)) {
    return InvalidArgument("unknown rounding '", name, "'");
  }
  return absl::OkStatus();
}

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
