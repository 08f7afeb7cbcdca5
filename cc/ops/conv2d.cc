// Lowprec>Conv2D, Conv2DBackpropInput and Conv2DBackpropFilter: registration and shapes. Kernel:
// cc/kernels/conv2d_op.cc.
#include <algorithm>

#include "cc/numerics/window.h"
#include "cc/ops/gemm_attributes.h"
#include "tensorflow/core/framework/common_shape_fns.h"
#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/shape_inference.h"

namespace tf_lowprec {
namespace {

using ::tensorflow::shape_inference::DimensionHandle;
using ::tensorflow::shape_inference::InferenceContext;
using ::tensorflow::shape_inference::ShapeHandle;

absl::Status Conv2DShape(InferenceContext* c) {
  ShapeHandle x, filters;
  TF_RETURN_IF_ERROR(c->WithRank(c->input(0), 4, &x));
  TF_RETURN_IF_ERROR(c->WithRank(c->input(1), 4, &filters));
  std::vector<int64_t> strides, dilations, explicit_paddings;
  std::string padding;
  TF_RETURN_IF_ERROR(c->GetAttr("strides", &strides));
  TF_RETURN_IF_ERROR(c->GetAttr("dilations", &dilations));
  TF_RETURN_IF_ERROR(c->GetAttr("padding", &padding));
  TF_RETURN_IF_ERROR(c->GetAttr("explicit_paddings", &explicit_paddings));
  std::vector<DimensionHandle> out = {c->Dim(x, 0), c->UnknownDim(), c->UnknownDim(),
                                      c->Dim(filters, 3)};
  for (int axis = 0; axis < 2; ++axis) {
    if (!c->ValueKnown(c->Dim(x, 1 + axis)) || !c->ValueKnown(c->Dim(filters, axis))) continue;
    // What is wrong here, the kernel's error says more about.
    if (strides.size() != 2 || dilations.size() != 2) continue;
    const auto absurd = [](int64_t value) { return value < 0 || value >= int64_t{1} << 31; };
    if (absurd(strides[axis]) || strides[axis] == 0 || absurd(dilations[axis])) continue;
    if (std::any_of(explicit_paddings.begin(), explicit_paddings.end(), absurd)) continue;
    WindowAxis window = {c->Value(c->Dim(x, 1 + axis)),
                         c->Value(c->Dim(filters, axis)),
                         strides[axis],
                         dilations[axis],
                         padding == "SAME",
                         0,
                         0};
    if (explicit_paddings.size() == 4) {
      window.before = explicit_paddings[2 * axis];
      window.after = explicit_paddings[2 * axis + 1];
    }
    out[1 + axis] = c->MakeDim(window.Outputs());
  }
  c->set_output(0, c->MakeShape(out));
  return absl::OkStatus();
}

// The shape is the value of the third input.
absl::Status ShapeOfSizes(InferenceContext* c) {
  ShapeHandle out;
  TF_RETURN_IF_ERROR(c->MakeShapeFromShapeTensor(2, &out));
  TF_RETURN_IF_ERROR(c->WithRank(out, 4, &out));
  c->set_output(0, out);
  return absl::OkStatus();
}

#define CONV2D_ATTRIBUTES                             \
  .Attr("Tseed: {int32, int64} = DT_INT32")           \
      .Attr("strides: list(int)")                     \
      .Attr("dilations: list(int)")                   \
      .Attr("padding: {'SAME', 'VALID', 'EXPLICIT'}") \
      .Attr("explicit_paddings: list(int) = []")      \
      .Attr("groups: int >= 1 = 1") LOWPREC_GEMM_ATTRIBUTES

REGISTER_OP("Lowprec>Conv2D")
    .Input("x: float")
    .Input("filters: float")
    .Input("seed: Tseed")
    .Output("y: float") CONV2D_ATTRIBUTES.SetShapeFn(Conv2DShape)
    .Doc(R"doc(
Convolution (NHWC, HWIO) in which every partial sum is rounded to `accumulator`.

A sum runs over k = (i, j, channel), row-major; terms on padding are left out. For the rest see
Lowprec>MatMul: a is x, b is filters.

strides, dilations: (height, width). explicit_paddings: top, bottom, left, right.
)doc");

REGISTER_OP("Lowprec>Conv2DBackpropInput")
    .Input("dy: float")
    .Input("filters: float")
    .Input("sizes: int32")
    .Input("seed: Tseed")
    .Output("dx: float") CONV2D_ATTRIBUTES.SetShapeFn(ShapeOfSizes)
    .Doc(R"doc(
Gradient of Lowprec>Conv2D with respect to x, of shape `sizes`: k = (i, j, output channel), i and j
the filter's indices as stored; a is dy, b is filters.
)doc");

REGISTER_OP("Lowprec>Conv2DBackpropFilter")
    .Input("x: float")
    .Input("dy: float")
    .Input("sizes: int32")
    .Input("seed: Tseed")
    .Output("dfilters: float") CONV2D_ATTRIBUTES.SetShapeFn(ShapeOfSizes)
    .Doc(R"doc(
Gradient of Lowprec>Conv2D with respect to filters, of shape `sizes`: k = (batch, oh, ow); a is x, b is
dy.
)doc");

}  // namespace
}  // namespace tf_lowprec
