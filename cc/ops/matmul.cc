// Lowprec>MatMul: registration and shape. Kernel: cc/kernels/matmul_op.cc.
#include "tensorflow/core/framework/common_shape_fns.h"
#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/shape_inference.h"

namespace tf_lowprec {
namespace {

using ::tensorflow::shape_inference::BroadcastBinaryOpOutputShapeFnHelper;
using ::tensorflow::shape_inference::DimensionHandle;
using ::tensorflow::shape_inference::InferenceContext;
using ::tensorflow::shape_inference::ShapeHandle;

absl::Status MatMulShape(InferenceContext* c) {
  ShapeHandle a, b, unused;
  TF_RETURN_IF_ERROR(c->WithRankAtLeast(c->input(0), 2, &a));
  TF_RETURN_IF_ERROR(c->WithRankAtLeast(c->input(1), 2, &b));
  TF_RETURN_IF_ERROR(c->WithRank(c->input(2), 1, &unused));
  bool transpose_a, transpose_b;
  TF_RETURN_IF_ERROR(c->GetAttr("transpose_a", &transpose_a));
  TF_RETURN_IF_ERROR(c->GetAttr("transpose_b", &transpose_b));
  DimensionHandle inner;
  TF_RETURN_IF_ERROR(
      c->Merge(c->Dim(a, transpose_a ? -2 : -1), c->Dim(b, transpose_b ? -1 : -2), &inner));
  ShapeHandle batch_a, batch_b, batch, out;
  TF_RETURN_IF_ERROR(c->Subshape(a, 0, -2, &batch_a));
  TF_RETURN_IF_ERROR(c->Subshape(b, 0, -2, &batch_b));
  TF_RETURN_IF_ERROR(BroadcastBinaryOpOutputShapeFnHelper(c, batch_a, batch_b, true, &batch));
  TF_RETURN_IF_ERROR(c->Concatenate(
      batch, c->Matrix(c->Dim(a, transpose_a ? -1 : -2), c->Dim(b, transpose_b ? -2 : -1)), &out));
  c->set_output(0, out);
  return absl::OkStatus();
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
    .Attr("transpose_b: bool = false")
    .Attr("a_formats: list(string) = []")
    .Attr("a_roundings: list(string) = []")
    .Attr("a_streams: list(int) = []")
    .Attr("b_formats: list(string) = []")
    .Attr("b_roundings: list(string) = []")
    .Attr("b_streams: list(int) = []")
    .Attr("accumulator: string")
    .Attr("rounding: {'nearest_even', 'nearest_up', 'stochastic', 'toward_zero'} = 'nearest_even'")
    .Attr("chunk: int >= 0 = 0")
    .Attr("stream: int >= 0 = 0")
    .Attr("output_format: string = ''")
    .Attr(
        "output_rounding: {'nearest_even', 'nearest_up', 'stochastic', 'toward_zero'} = "
        "'nearest_even'")
    .Attr("output_stream: int >= 0 = 0")
    .SetShapeFn(MatMulShape)
    .Doc(R"doc(
Product of matrices, batch axes broadcast, in which every partial sum is rounded to `accumulator`.

s <- round(s + a[i, k] * b[k, j]) for k = 0, 1, 2, ... from s = +0, the exact sum rounded once. With
chunk > 0, each run of `chunk` consecutive k is such a sum, and these are added up likewise.

seed: Key of the stochastic roundings.
random_bits: At most one tensor of shape [..., M, N, K + chunks], values in [0, 2^16): r of each
  rounding, in the order in which they happen, instead of the seed's.
a_formats, a_roundings, a_streams: Roundings of a before the product, one after the other; empty:
  a as it is. Likewise b's.
stream: Of stochastic accumulators' random numbers.
output_format: Rounding of the product; empty: as the accumulator left it.
)doc");

}  // namespace
}  // namespace tf_lowprec
