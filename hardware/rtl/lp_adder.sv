// An integer adder: the unit in which hardware/energy.py counts.
module lp_adder #(
    parameter int W = 32
) (
    input  logic [W-1:0] a,
    input  logic [W-1:0] b,
    output logic [W-1:0] sum
);
  assign sum = a + b;
endmodule
