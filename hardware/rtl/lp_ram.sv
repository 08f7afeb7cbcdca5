// A memory with one write and one read port; what is read appears a cycle later. Maps onto block
// RAM.
module lp_ram #(
    parameter int W = 8,
    parameter int DEPTH = 2,
    localparam int ADDR_W = DEPTH > 1 ? $clog2(DEPTH) : 1
) (
    input  logic              clk,
    input  logic              write,
    input  logic [ADDR_W-1:0] write_address,
    input  logic [     W-1:0] write_data,
    input  logic [ADDR_W-1:0] read_address,
    output logic [     W-1:0] read_data
);
  (* ram_style = "auto" *)
  logic [W-1:0] memory[DEPTH];
  always_ff @(posedge clk) begin
    if (write) memory[write_address] <= write_data;
    read_data <= memory[read_address];
  end
endmodule
