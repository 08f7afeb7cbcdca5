// Lowprec>ToBits and Lowprec>FromBits: registration and shapes. Kernel: cc/kernels/bits_op.cc.
#include "tensorflow/core/framework/common_shape_fns.h"
#include "tensorflow/core/framework/op.h"

namespace tf_lowprec {
namespace {

REGISTER_OP("Lowprec>ToBits")
    .Input("x: float")
    .Output("bits: T")
    .Attr("T: {int8, int16, int32}")
    .Attr("format: string")
    .SetShapeFn(::tensorflow::shape_inference::UnchangedShape)
    .Doc(R"doc(
The integer code of each value of x, which must lie on the format's grid.

bits: Floats: sign, exponent and mantissa fields, right-aligned. Fixed point: x * 2^FL.
)doc");

REGISTER_OP("Lowprec>FromBits")
    .Input("bits: T")
    .Output("x: float")
    .Attr("T: {int8, int16, int32}")
    .Attr("format: string")
    .SetShapeFn(::tensorflow::shape_inference::UnchangedShape)
    .Doc("The value of each code: the inverse of ToBits.");

}  // namespace
}  // namespace tf_lowprec
