// Lowprec>AlignedMatMul: registration and shape. Kernel: cc/kernels/aligned_matmul_op.cc.
#include "cc/ops/matrix_product.h"
#include "tensorflow/core/framework/op.h"

namespace tf_lowprec {
namespace {

absl::Status AlignedMatMulShape(::tensorflow::shape_inference::InferenceContext* c) {
  return MatrixProductShape(c, /*broadcasts=*/true);
}

REGISTER_OP("Lowprec>AlignedMatMul")
    .Input("a: float")
    .Input("b: float")
    .Output("product: float")
    .Attr("transpose_a: bool = false")
    .Attr("transpose_b: bool = false")
    .Attr("a_format: string")
    .Attr("b_format: string")
    .Attr("group: int >= 1 = 32")
    .Attr("fraction_bits: int = 13")
    .Attr("accumulator: string = 'float<8,13,ieee>'")
    .Attr("rounding: {'nearest_even', 'toward_zero'} = 'toward_zero'")
    .Attr("promote: int >= 0 = 0")
    .SetShapeFn(AlignedMatMulShape)
    .Doc(R"doc(
Product of matrices, batch axes broadcast, whose sums are taken as tensor cores take them.

For each run of `group` consecutive k: the products and the sum so far are aligned to the largest
exponent among them, cut toward zero to `fraction_bits` bits below it and added exactly; the result
is rounded to `accumulator`, beyond which it is infinite. After every `promote` terms (0: never), and at the end, the
sum is added to a total in float32, and starts again at +0.

a, b: Values on the grids of a_format and b_format, which must be float formats. An operand's
  exponent is that of its leading bit, but at least the format's lowest; a product's is the sum of
  its operands'.
accumulator: A float format with infinities and subnormal numbers.
fraction_bits: 1..30. promote: a multiple of group.
)doc");

}  // namespace
}  // namespace tf_lowprec
