// One processing element: sum <- (first ? 0 : sum) + a * b, three stages deep, so that multiplier,
// product register, adder and sum map onto one DSP48. Operands and their flags go on to the right
// and downwards a cycle later.
//
// The sum is taken modulo 2^ACC_W, as a DSP48 does: partial sums may wrap, and the result is exact
// whenever it fits itself.
//
// With `last` the sum is handed to `drain`, a register of the column's shift register, while the
// next tile begins. The column shifts down once its lowest sum is there; `shift` lasts one cycle in
// the top row and one more in each row below, so that a row which is empty can take its next sum
// while those below still shift.
module lp_pe #(
    parameter int WL = 16,
    parameter int ACC_W = 48
) (
    input  logic                    clk,
    input  logic                    rst,
    input  logic signed [   WL-1:0] a_in,
    input  logic signed [   WL-1:0] b_in,
    input  logic                    first_in,
    input  logic                    last_in,
    output logic signed [   WL-1:0] a_out,
    output logic signed [   WL-1:0] b_out,
    output logic                    first_out,
    output logic                    last_out,
    input  logic                    go,         // the column's drain begins
    input  logic                    shift_in,   // shift_out of the row above, 0 at the top
    output logic                    shift_out,
    output logic                    shift,      // drain is handed on in this cycle
    output logic                    loaded,     // drain holds a new sum since this cycle
    input  logic signed [ACC_W-1:0] drain_in,
    output logic signed [ACC_W-1:0] drain
);
  if (WL < 2) begin : g_bad_wl
    $fatal(1, "lp_pe: WL = %0d must be at least 2", WL);
  end
  if (ACC_W < 2 * WL) begin : g_bad_acc_w
    $fatal(1, "lp_pe: ACC_W = %0d must be at least 2 WL = %0d", ACC_W, 2 * WL);
  end

  logic signed [2*WL-1:0] product;
  logic signed [ACC_W-1:0] sum;
  logic first_2, last_2, last_3;

  assign shift = go || shift_in;

  always_ff @(posedge clk) begin
    // 1: operands
    a_out     <= a_in;
    b_out     <= b_in;
    first_out <= first_in;
    last_out  <= last_in && !rst;
    // 2: product
    product   <= a_out * b_out;
    first_2   <= first_out;
    last_2    <= last_out && !rst;
    // 3: sum
    sum       <= (first_2 ? '0 : sum) + ACC_W'(product);
    last_3    <= last_2 && !rst;
    // 4: drain
    if (last_3) drain <= sum;
    else if (shift) drain <= drain_in;
    loaded    <= last_3 && !rst;
    shift_out <= shift && !rst;
  end
endmodule
