// Lowprec>WideMatMul: registration and shape. Kernel: cc/kernels/wide_matmul_op.cc.
#include "cc/ops/matrix_product.h"
#include "tensorflow/core/framework/op.h"

namespace tf_lowprec {
namespace {

absl::Status WideMatMulShape(::tensorflow::shape_inference::InferenceContext* c) {
  return MatrixProductShape(c, /*broadcasts=*/false);
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
