// Shapes of products of matrices with leading batch axes.
#ifndef TF_LOWPREC_CC_OPS_MATRIX_PRODUCT_H_
#define TF_LOWPREC_CC_OPS_MATRIX_PRODUCT_H_

#include "tensorflow/core/framework/common_shape_fns.h"
#include "tensorflow/core/framework/shape_inference.h"

namespace tf_lowprec {

// The product of inputs 0 and 1 under the attributes transpose_a and transpose_b. The batch axes
// broadcast, or else must be equal.
inline absl::Status MatrixProductShape(::tensorflow::shape_inference::InferenceContext* c,
                                       bool broadcasts) {
  using ::tensorflow::shape_inference::DimensionHandle;
  using ::tensorflow::shape_inference::ShapeHandle;
  ShapeHandle a, b, batch_a, batch_b, batch, out;
  TF_RETURN_IF_ERROR(c->WithRankAtLeast(c->input(0), 2, &a));
  TF_RETURN_IF_ERROR(c->WithRankAtLeast(c->input(1), 2, &b));
  bool transpose_a, transpose_b;
  TF_RETURN_IF_ERROR(c->GetAttr("transpose_a", &transpose_a));
  TF_RETURN_IF_ERROR(c->GetAttr("transpose_b", &transpose_b));
  DimensionHandle inner;
  TF_RETURN_IF_ERROR(
      c->Merge(c->Dim(a, transpose_a ? -2 : -1), c->Dim(b, transpose_b ? -1 : -2), &inner));
  TF_RETURN_IF_ERROR(c->Subshape(a, 0, -2, &batch_a));
  TF_RETURN_IF_ERROR(c->Subshape(b, 0, -2, &batch_b));
  if (broadcasts) {
    TF_RETURN_IF_ERROR(::tensorflow::shape_inference::BroadcastBinaryOpOutputShapeFnHelper(
        c, batch_a, batch_b, true, &batch));
  } else {
    TF_RETURN_IF_ERROR(c->Merge(batch_a, batch_b, &batch));
  }
  TF_RETURN_IF_ERROR(c->Concatenate(
      batch, c->Matrix(c->Dim(a, transpose_a ? -1 : -2), c->Dim(b, transpose_b ? -2 : -1)), &out));
  c->set_output(0, out);
  return absl::OkStatus();
}

}  // namespace tf_lowprec

#endif  // TF_LOWPREC_CC_OPS_MATRIX_PRODUCT_H_
