// A floating-point multiply-accumulate unit with a narrow accumulator: s <- round(s + a b), where
// the exact s + a b is rounded once. Operands (1, OP_E, OP_M), accumulator (1, ACC_E, ACC_M).
//
// With CHUNKED, `in_chunk_last` ends a chunk: in the next cycle the chunk's sum is added to the
// total, by the same adder and rounding, and no operands are taken. `in_last` ends the dot product,
// and its last chunk. One step a cycle; each takes one `random` where the rounding is stochastic
// (lp_lfsr). It is lp.matmul under lp.Accumulator(format, chunk, rounding).
module lp_float_mac #(
    parameter int OP_E = 5,
    parameter int OP_M = 2,
    parameter int OP_FN = 0,      // see lp_float_multiply
    parameter int ACC_E = 6,
    parameter int ACC_M = 9,
    parameter int ROUNDING = 0,   // see lp_float_add
    parameter int CHUNKED = 1,
    parameter int RANDOM_W = 16,
    localparam int OP_W = 1 + OP_E + OP_M,
    localparam int ACC_W = 1 + ACC_E + ACC_M
) (
    input  logic                clk,
    input  logic                rst,
    input  logic                in_valid,
    output logic                in_ready,
    input  logic [    OP_W-1:0] in_a,
    input  logic [    OP_W-1:0] in_b,
    input  logic                in_chunk_last,
    input  logic                in_last,
    input  logic [RANDOM_W-1:0] random,
    output logic                step,           // `random` is taken in this cycle
    output logic                out_valid,      // for one cycle
    output logic [   ACC_W-1:0] out_sum
);
  localparam int LOWEST = 2 - 2 ** (ACC_E - 1);  // exponent of the accumulator's subnormals
  localparam int DEEP = LOWEST > 5 - 2 ** OP_E ? LOWEST - (5 - 2 ** OP_E) : 0;
  localparam int PRODUCT_W = 2 * (OP_M + 1) + DEEP;
  // The adder also takes chunks' sums.
  localparam int SIG_W = CHUNKED != 0 && ACC_M + 1 > PRODUCT_W ? ACC_M + 1 : PRODUCT_W;
  localparam int EXP_W = (OP_E + 1 > ACC_E ? OP_E + 1 : ACC_E) + 2;

  logic p_sign, p_zero, p_infinite, p_nan;
  logic signed [EXP_W-1:0] p_exponent;
  logic [PRODUCT_W-1:0] p_significand;
  lp_float_multiply #(.E(OP_E), .M(OP_M), .FN(OP_FN), .EXP_W(EXP_W), .LOWEST(LOWEST)) multiply (
      .a(in_a), .b(in_b), .sign(p_sign), .exponent(p_exponent), .significand(p_significand),
      .zero(p_zero), .infinite(p_infinite), .nan(p_nan)
  );

  logic [ACC_W-1:0] sum, augend, result;
  logic y_sign, y_zero, y_infinite, y_nan;
  logic signed [EXP_W-1:0] y_exponent;
  logic [SIG_W-1:0] y_significand;
  lp_float_add #(
      .E(ACC_E), .M(ACC_M), .SIG_W(SIG_W), .EXP_W(EXP_W), .ROUNDING(ROUNDING), .RANDOM_W(RANDOM_W)
  ) add (
      .s(augend), .y_sign, .y_exponent, .y_significand, .y_zero, .y_infinite, .y_nan, .random,
      .sum(result)
  );

  logic accept;
  assign accept = in_valid && in_ready;

  if (CHUNKED != 0) begin : g_chunked
    logic [ACC_W-1:0] total;
    logic adding, ending;  // the chunk's sum is added in this cycle; it is the last chunk
    logic normal;
    assign normal = sum[ACC_W-2:ACC_M] != 0;
    assign in_ready = !adding;
    assign step = accept || adding;
    assign augend = adding ? total : sum;
    assign y_sign = adding ? sum[ACC_W-1] : p_sign;
    assign y_significand = adding ? SIG_W'({normal, sum[ACC_M-1:0]}) << (SIG_W - ACC_M - 1)
                                  : SIG_W'(p_significand) << (SIG_W - PRODUCT_W);
    // A subnormal has the exponent of the lowest normal binade.
    assign y_exponent = !adding ? p_exponent
        : normal ? $signed(EXP_W'(sum[ACC_W-2:ACC_M])) + EXP_W'(LOWEST - 1) : EXP_W'(LOWEST);
    assign y_zero = adding ? sum[ACC_W-2:0] == 0 : p_zero;
    assign y_infinite = adding ? &sum[ACC_W-2:ACC_M] && sum[ACC_M-1:0] == 0 : p_infinite;
    assign y_nan = adding ? &sum[ACC_W-2:ACC_M] && sum[ACC_M-1:0] != 0 : p_nan;
    assign out_sum = total;

    always_ff @(posedge clk) begin
      adding <= accept && (in_chunk_last || in_last) && !rst;
      ending <= in_last;
      out_valid <= adding && ending && !rst;
      if (rst) begin
        sum <= '0;
        total <= '0;
      end else if (adding) begin
        sum <= '0;
        total <= result;
      end else begin
        if (accept) sum <= result;
        if (out_valid) total <= '0;  // a result counts as 0 for the next sum
      end
    end
  end else begin : g_sequential
    assign in_ready = 1'b1;
    assign step = accept;
    logic restart;  // sum is a result, and counts as 0 for the next one
    assign augend = restart ? '0 : sum;
    assign {y_sign, y_zero, y_infinite, y_nan} = {p_sign, p_zero, p_infinite, p_nan};
    assign y_exponent = p_exponent;
    assign y_significand = p_significand;
    assign out_sum = sum;
    wire unused = &{1'b0, in_chunk_last};

    always_ff @(posedge clk) begin
      out_valid <= accept && in_last && !rst;
      if (rst) restart <= 1'b1;
      else if (accept) restart <= in_last;
      if (accept) sum <= result;
    end
  end
endmodule
