// lp_delay for a flag that is 0 after reset: registers that are cleared at once.
module lp_delay_reset #(
    parameter int DEPTH = 1
) (
    input  logic clk,
    input  logic rst,
    input  logic in,
    output logic out
);
  if (DEPTH == 0) begin : g_wire
    assign out = in;
    wire unused = &{1'b0, clk, rst};
  end else begin : g_line
    logic [DEPTH-1:0] line;
    always_ff @(posedge clk) begin
      if (rst) line <= '0;
      else line <= DEPTH'({line, in});
    end
    assign out = line[DEPTH-1];
  end
endmodule
