// Ops that are the identity forward and carry a precision backward: their gradients, registered in
// tf_lowprec/ops/passes.py, read these attributes, so that a SavedModel trains on exactly as it
// was built. Kernels: cc/kernels/passes_op.cc.
#include "tensorflow/core/framework/common_shape_fns.h"
#include "tensorflow/core/framework/op.h"

namespace tf_lowprec {
namespace {

using ::tensorflow::shape_inference::UnchangedShape;

REGISTER_OP("Lowprec>MatMulPasses")
    .Input("product: T")
    .Input("lhs: float")
    .Input("rhs: float")
    .Input("seed: Tseed")
    .Output("output: T")
    .Attr("T: {float, double}")
    .Attr("Tseed: {int32, int64} = DT_INT32")
    .Attr("transpose_a: bool = false")
    .Attr("transpose_b: bool = false")
    .Attr("has_seed: bool = true")
    .Attr("rounded: bool = true")
    .Attr("forward: string")
    .Attr("backward: string")
    .Attr("gradient: string")
    .SetShapeFn(UnchangedShape)
    .Doc(R"doc(
Passes product = lhs . rhs through, and differentiates it with the BWD and GRAD GEMMs' precisions.

lhs, rhs: The operands, as the forward pass rounded them if `rounded`, else before that.
has_seed: Whether `seed` is one; without it, stochastic BWD and GRAD products are refused.
forward, backward, gradient: JSON of tf_lowprec.Gemm.
)doc");

REGISTER_OP("Lowprec>Conv2DPasses")
    .Input("product: T")
    .Input("lhs: float")
    .Input("rhs: float")
    .Input("seed: Tseed")
    .Output("output: T")
    .Attr("T: {float, double}")
    .Attr("Tseed: {int32, int64} = DT_INT32")
    .Attr("strides: list(int)")
    .Attr("dilations: list(int)")
    .Attr("padding: {'SAME', 'VALID', 'EXPLICIT'}")
    .Attr("explicit_paddings: list(int) = []")
    .Attr("groups: int >= 1 = 1")
    .Attr("filter_shape: list(int) = []")
    .Attr("transposed: bool = false")
    .Attr("rounded: bool = true")
    .Attr("forward: string")
    .Attr("backward: string")
    .Attr("gradient: string")
    .SetShapeFn(UnchangedShape)
    .Doc(R"doc(
Passes product = conv2d(lhs, rhs) through, and differentiates it with the BWD and GRAD GEMMs'
precisions.

lhs, rhs: NHWC input and HWIO filters, as the forward pass rounded them if `rounded`, else before
  that.
transposed: product is the convolution's gradient with respect to its input instead, lhs the error.
strides, dilations: (height, width). explicit_paddings: top, bottom, left, right.
filter_shape: rhs', which a loop in a SavedModel has forgotten; empty in models before there was this.
)doc");

REGISTER_OP("Lowprec>AddBiasPasses")
    .Input("sum: T")
    .Input("x: float")
    .Input("bias: float")
    .Input("seed: Tseed")
    .Output("output: T")
    .Attr("T: {float, double}")
    .Attr("Tseed: {int32, int64} = DT_INT32")
    .Attr("format: string")
    .Attr("rounding: {'nearest_even', 'nearest_up', 'stochastic', 'toward_zero'} = 'nearest_even'")
    .SetShapeFn(UnchangedShape)
    .Doc(R"doc(
Passes sum = x + bias through; the bias' gradient is the exact sum of the errors, rounded once.

format: of the bias' gradient; empty leaves it in float32.
)doc");

REGISTER_OP("Lowprec>RoundError")
    .Input("x: float")
    .Input("seed: Tseed")
    .Output("y: float")
    .Attr("Tseed: {int32, int64} = DT_INT32")
    .Attr("format: string")
    .Attr("rounding: {'nearest_even', 'nearest_up', 'stochastic', 'toward_zero'} = 'nearest_even'")
    .Attr("stream: int >= 0 = 0")
    .SetShapeFn(UnchangedShape)
    .Doc("The identity; the error that flows back through it is rounded to `format`.");

}  // namespace
}  // namespace tf_lowprec
