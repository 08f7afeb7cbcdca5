// Lowprec>MatMul: registration and shape. Kernel: cc/kernels/matmul_op.cc.
#include "cc/ops/gemm_attributes.h"
#include "cc/ops/matrix_product.h"
#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/shape_inference.h"

namespace tf_lowprec {
namespace {

using ::tensorflow::shape_inference::InferenceContext;
using ::tensorflow::shape_inference::ShapeHandle;

absl::Status MatMulShape(InferenceContext* c) {
  ShapeHandle unused;
  TF_RETURN_IF_ERROR(c->WithRank(c->input(2), 1, &unused));
  return MatrixProductShape(c, /*broadcasts=*/true);
}

REGISTER_OP("Lowprec>MatMul")
    .Input("a: float")
    .Input("b: float")
    .Input("seed: Tseed")
    .Input("random_bits: num_random_bits * int32")
    .Output("product: float")
    .Attr("Tseed: {int32, int64} = DT_INT32")
    .Attr("num_random_bits: int >= 0 = 0")
    .Attr("transpose_a: bool = false")
    .Attr("transpose_b: bool = false") LOWPREC_GEMM_ATTRIBUTES.SetShapeFn(MatMulShape)
    .Doc(R"doc(
Product of matrices, batch axes broadcast, in which every partial sum is rounded to `accumulator`.

s <- round(s + a[i, k] * b[k, j]) for k = 0, 1, 2, ... from s = +0, the exact sum rounded once. With
chunk > 0, each run of `chunk` consecutive k is such a sum, and these are added up likewise.

seed: Key of the stochastic roundings.
random_bits: At most one tensor of shape [..., M, N, K + chunks], values in [0, 2^16): r of each
  rounding, in the order in which they happen, instead of the seed's. Checked on a CPU; on a GPU
  taken modulo 2^16.
a_formats, a_roundings, a_streams: Roundings of a before the product, one after the other; empty:
  a as it is. Likewise b's.
stream: Of stochastic accumulators' random numbers.
output_format: Rounding of the product; empty: as the accumulator left it.
)doc");

}  // namespace
}  // namespace tf_lowprec
