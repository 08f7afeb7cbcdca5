// Lowprec>WideMatMul: registration and shape. Kernel: cc/kernels/wide_matmul_op.cc.
#include "tensorflow/core/framework/common_shape_fns.h"
#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/shape_inference.h"

namespace tf_lowprec {
namespace {

using ::tensorflow::shape_inference::DimensionHandle;
using ::tensorflow::shape_inference::InferenceContext;
using ::tensorflow::shape_inference::ShapeHandle;

absl::Status WideMatMulShape(InferenceContext* c) {
  ShapeHandle a, b, batch;
  TF_RETURN_IF_ERROR(c->WithRankAtLeast(c->input(0), 2, &a));
  TF_RETURN_IF_ERROR(c->WithRankAtLeast(c->input(1), 2, &b));
  bool transpose_a, transpose_b;
  TF_RETURN_IF_ERROR(c->GetAttr("transpose_a", &transpose_a));
  TF_RETURN_IF_ERROR(c->GetAttr("transpose_b", &transpose_b));
  DimensionHandle inner;
  TF_RETURN_IF_ERROR(
      c->Merge(c->Dim(a, transpose_a ? -2 : -1), c->Dim(b, transpose_b ? -1 : -2), &inner));
  ShapeHandle batch_a, batch_b;
  TF_RETURN_IF_ERROR(c->Subshape(a, 0, -2, &batch_a));
  TF_RETURN_IF_ERROR(c->Subshape(b, 0, -2, &batch_b));
  TF_RETURN_IF_ERROR(c->Merge(batch_a, batch_b, &batch));
  ShapeHandle out;
  TF_RETURN_IF_ERROR(c->Concatenate(
      batch, c->Matrix(c->Dim(a, transpose_a ? -1 : -2), c->Dim(b, transpose_b ? -2 : -1)), &out));
  c->set_output(0, out);
  return absl::OkStatus();
}

REGISTER_OP("Lowprec>WideMatMul")
    .Input("a: float")
    .Input("b: float")
    .Output("product: double")
    .Attr("transpose_a: bool = false")
    .Attr("transpose_b: bool = false")
    .Attr("a_format: string")
    .Attr("b_format: string")
    .SetShapeFn(WideMatMulShape)
    .Doc(R"doc(
The exact product of matrices (with equal leading axes) in fixed point of up to 16 bits.

a, b: Values on the grids of a_format and b_format: others are cut to them. A NaN makes every sum
  that it is part of NaN.
product: The exact sums, in float64; at most 2^(53 - bits of a product) terms each, which the
  caller checks.
)doc");

}  // namespace
}  // namespace tf_lowprec
