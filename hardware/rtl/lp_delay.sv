// DEPTH cycles of delay. Without a reset, so that it maps onto shift-register LUTs.
module lp_delay #(
    parameter int W = 1,
    parameter int DEPTH = 1
) (
    input  logic         clk,
    input  logic [W-1:0] in,
    output logic [W-1:0] out
);
  if (DEPTH == 0) begin : g_wire
    assign out = in;
    wire unused = clk;
  end else begin : g_line
    logic [W-1:0] line[DEPTH];
    always_ff @(posedge clk) begin
      line[0] <= in;
      for (int i = 1; i < DEPTH; i++) line[i] <= line[i-1];
    end
    assign out = line[DEPTH-1];
  end
endmodule
