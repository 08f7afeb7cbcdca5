// Lowprec>QuantizeMx: registration and shape. Kernel: cc/kernels/mx_quantize_op.cc.
#include "cc/ops/gemm_attributes.h"
#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/shape_inference.h"

namespace tf_lowprec {
namespace {

using ::tensorflow::shape_inference::DimensionHandle;
using ::tensorflow::shape_inference::InferenceContext;
using ::tensorflow::shape_inference::ShapeHandle;

absl::Status QuantizeMxShape(InferenceContext* c) {
  const ShapeHandle x = c->input(0);
  c->set_output(0, x);
  if (!c->RankKnown(x)) {
    c->set_output(1, c->UnknownShape());
    return absl::OkStatus();
  }
  int64_t axis, block;
  TF_RETURN_IF_ERROR(c->GetAttr("axis", &axis));
  TF_RETURN_IF_ERROR(c->GetAttr("block", &block));
  const int64_t rank = c->Rank(x);
  if (axis < -rank || axis >= rank || block < 1) {
    return absl::InvalidArgumentError("axis must be an axis of x, and block at least 1");
  }
  const int64_t index = axis < 0 ? axis + rank : axis;
  const DimensionHandle length = c->Dim(x, index);
  const DimensionHandle blocks =
      c->ValueKnown(length) ? c->MakeDim((c->Value(length) + block - 1) / block) : c->UnknownDim();
  ShapeHandle scales;
  TF_RETURN_IF_ERROR(c->ReplaceDim(x, index, blocks, &scales));
  c->set_output(1, scales);
  return absl::OkStatus();
}

REGISTER_OP("Lowprec>QuantizeMx")
    .Input("x: T")
    .Input("seed: Tseed")
    .Output("y: float")
    .Output("scales: uint8")
    .Attr("T: {float, double} = DT_FLOAT")
    .Attr("Tseed: {int32, int64} = DT_INT32")
    .Attr("element: string")
    .Attr("axis: int = -1")
    .Attr("block: int >= 1 = 32")
    .Attr("rounding: " LOWPREC_ROUNDINGS " = 'nearest_even'")
    .Attr("stream: int >= 0 = 0")
    .SetShapeFn(QuantizeMxShape)
    .Doc(R"doc(
Rounds blocks of x to elements with a shared power-of-two scale (OCP MX v1.0).

Of each run of `block` values along `axis` (the last may be shorter): the scale is
2^(floor(log2(max |x|)) - emax), emax the exponent of the element format's largest value, at least
2^-127; y = scale * round(x / scale), where the rounding to `element` saturates. A block of zeros
has the scale 2^-127, one with a NaN, an infinity or a number of 2^128 or more the scale NaN, and is
all NaN.

scales: E8M0 codes: exponent + 127; 255 for NaN. x's shape with a block's scale along `axis`.
seed: Key of stochastic rounding, whose random numbers are those of Lowprec>Quantize.
)doc");

}  // namespace
}  // namespace tf_lowprec
