// Lowprec>AdaCompEncode and …Decode: registration and shapes. Kernels: cc/kernels/adacomp_op.cc.
#include "tensorflow/core/framework/common_shape_fns.h"
#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/shape_inference.h"

namespace tf_lowprec {
namespace {

using ::tensorflow::shape_inference::InferenceContext;
using ::tensorflow::shape_inference::ShapeHandle;

absl::Status EncodeShape(InferenceContext* c) {
  ShapeHandle shape;
  TF_RETURN_IF_ERROR(c->Merge(c->input(0), c->input(1), &shape));
  c->set_output(0, c->Vector(InferenceContext::kUnknownDim));
  c->set_output(1, shape);
  return absl::OkStatus();
}

absl::Status DecodeShape(InferenceContext* c) {
  ShapeHandle shape;
  const int packets = c->num_inputs() - 1;
  for (int i = 0; i < packets; ++i) TF_RETURN_IF_ERROR(c->WithRank(c->input(i), 1, &shape));
  TF_RETURN_IF_ERROR(c->WithRank(c->input(packets), 0, &shape));
  ::tensorflow::shape_inference::DimensionHandle elements;
  TF_RETURN_IF_ERROR(c->MakeDimForScalarInput(packets, &elements));
  c->set_output(0, c->Vector(elements));
  return absl::OkStatus();
}

REGISTER_OP("Lowprec>AdaCompEncode")
    .Input("gradient: float")
    .Input("residue: float")
    .Output("packet: int32")
    .Output("new_residue: float")
    .Attr("bin_size: int")
    .Attr("encoding: {'plain', 'entropy'} = 'plain'")
    .Attr("soft_threshold: float = 2.0")
    .SetShapeFn(EncodeShape)
    .Doc(R"doc(
Compresses a gradient with AdaComp (Chen et al., 2018): G = residue + gradient; in each bin of
bin_size elements those are sent, as sign(G) * scale, where |residue + soft_threshold * gradient| is
at least the bin's greatest |G|; scale is the mean of the bins' greatest |G|.

residue: The gradient's shape: what was not sent before.
packet: 1-D; the format is in docs/adacomp.md. Where a G is not finite it is a skip packet.
new_residue: G - what is sent; residue itself with a skip packet.
bin_size: 1 to 16384.
)doc");

REGISTER_OP("Lowprec>AdaCompDecode")
    .Input("packets: num_packets * int32")
    .Input("num_elements: int64")
    .Output("gradient: float")
    .Attr("num_packets: int >= 1")
    .SetShapeFn(DecodeShape)
    .Doc(R"doc(
The sum, in their order, of what AdaComp packets send; NaN if one of them is a skip packet. A packet
that is truncated or corrupt, or made for another number of elements, is an error.

gradient: Shape [num_elements].
)doc");

}  // namespace
}  // namespace tf_lowprec
