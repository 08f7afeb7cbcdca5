// Lowprec>Quantize and its gradient: registration and shapes. Kernel: cc/kernels/quantize_op.cc.
#include "tensorflow/core/framework/common_shape_fns.h"
#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/shape_inference.h"

namespace tf_lowprec {
namespace {

using ::tensorflow::shape_inference::InferenceContext;
using ::tensorflow::shape_inference::ShapeHandle;

absl::Status QuantizeShape(InferenceContext* c) {
  ShapeHandle seed;
  TF_RETURN_IF_ERROR(c->WithRank(c->input(1), 1, &seed));
  ::tensorflow::shape_inference::DimensionHandle two;
  TF_RETURN_IF_ERROR(c->WithValue(c->Dim(seed, 0), 2, &two));
  ShapeHandle out = c->input(0);
  for (int i = 2; i < c->num_inputs(); ++i) {  // random_bits
    TF_RETURN_IF_ERROR(c->Merge(out, c->input(i), &out));
  }
  c->set_output(0, out);
  return absl::OkStatus();
}

absl::Status QuantizeGradShape(InferenceContext* c) {
  ShapeHandle out;
  TF_RETURN_IF_ERROR(c->Merge(c->input(0), c->input(1), &out));
  c->set_output(0, out);
  return absl::OkStatus();
}

REGISTER_OP("Lowprec>Quantize")
    .Input("x: T")
    .Input("seed: Tseed")
    .Input("random_bits: num_random_bits * int32")
    .Output("y: float")
    .Attr("T: {float, double}")
    .Attr("Tseed: {int32, int64} = DT_INT32")
    .Attr("num_random_bits: int >= 0 = 0")
    .Attr("format: string")
    .Attr("rounding: {'nearest_even', 'nearest_up', 'stochastic', 'toward_zero'} = 'nearest_even'")
    .Attr("stream: int >= 0 = 0")
    .SetShapeFn(QuantizeShape)
    .Doc(R"doc(
Rounds each element of x, once, to the nearest (or chosen) value of a number format.

x: Values; float64 is rounded to the format in one step.
seed: Shape [2], each modulo 2^32: the key of Philox 4x32-10. Read by stochastic rounding only.
random_bits: At most one tensor of x's shape, with values r in [0, 2^24): used by stochastic
  rounding instead of Philox, floor(|x| / ulp + r / 2^24). Checked on a CPU; on a GPU taken modulo
  2^24.
y: x's shape; values on the format's grid, carried in float32.
format: fixed<IL,FL> or float<exponent_bits,mantissa_bits,specials[,saturate][,flush]>.
stream: Upper half of Philox's counter; the lower half is element index / 4.
)doc");

REGISTER_OP("Lowprec>QuantizeGrad")
    .Input("dy: float")
    .Input("x: T")
    .Output("dx: T")
    .Attr("T: {float, double}")
    .Attr("format: string")
    .SetShapeFn(QuantizeGradShape)
    .Doc(R"doc(
Straight-through gradient of Quantize: dy where x lies within the format's range, 0 beyond it.

x: Quantize's input, before rounding.
)doc");

}  // namespace
}  // namespace tf_lowprec
