// What every OpKernel of ours shares: errors, and the `format` and `rounding` attributes, read once
// per kernel.
#ifndef TF_LOWPREC_CC_KERNELS_OP_UTIL_H_
#define TF_LOWPREC_CC_KERNELS_OP_UTIL_H_

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

}  // namespace tf_lowprec

#endif  // TF_LOWPREC_CC_KERNELS_OP_UTIL_H_
