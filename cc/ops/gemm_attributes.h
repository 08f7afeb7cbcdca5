// What the ops of narrow accumulators share in their registration: how operands are rounded, how
// sums are taken and how the result is rounded. cc/kernels/op_gemm.h reads these.
#ifndef TF_LOWPREC_CC_OPS_GEMM_ATTRIBUTES_H_
#define TF_LOWPREC_CC_OPS_GEMM_ATTRIBUTES_H_

#define LOWPREC_ROUNDINGS "{'nearest_even', 'nearest_up', 'stochastic', 'toward_zero'}"

// To be put in a chain of REGISTER_OP.
#define LOWPREC_GEMM_ATTRIBUTES                                        \
  .Attr("a_formats: list(string) = []")                                \
      .Attr("a_roundings: list(string) = []")                          \
      .Attr("a_streams: list(int) = []")                               \
      .Attr("b_formats: list(string) = []")                            \
      .Attr("b_roundings: list(string) = []")                          \
      .Attr("b_streams: list(int) = []")                               \
      .Attr("accumulator: string")                                     \
      .Attr("rounding: " LOWPREC_ROUNDINGS " = 'nearest_even'")        \
      .Attr("chunk: int >= 0 = 0")                                     \
      .Attr("stream: int >= 0 = 0")                                    \
      .Attr("output_format: string = ''")                              \
      .Attr("output_rounding: " LOWPREC_ROUNDINGS " = 'nearest_even'") \
      .Attr("output_stream: int >= 0 = 0")

#endif  // TF_LOWPREC_CC_OPS_GEMM_ATTRIBUTES_H_
