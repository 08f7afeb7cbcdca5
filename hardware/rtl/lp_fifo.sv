// A FIFO of DEPTH words (a power of two) in a memory, with valid/ready on both sides. A word comes
// out two cycles after it went in, or later; valid never falls before ready.
module lp_fifo #(
    parameter int W = 8,
    parameter int DEPTH = 16
) (
    input  logic         clk,
    input  logic         rst,
    input  logic         in_valid,
    output logic         in_ready,
    input  logic [W-1:0] in_data,
    output logic         out_valid,
    input  logic         out_ready,
    output logic [W-1:0] out_data,
    output logic         empty      // nothing inside
);
  if (DEPTH < 2 || (DEPTH & (DEPTH - 1)) != 0) begin : g_bad_depth
    $fatal(1, "lp_fifo: DEPTH = %0d must be a power of two, at least 2", DEPTH);
  end
  localparam int ADDR_W = $clog2(DEPTH);

  // One bit more than an address tells full from empty.
  logic [ADDR_W:0] write_at, read_at, read_next;
  logic put, take;
  assign empty = write_at == read_at;
  assign in_ready = write_at != (read_at ^ {1'b1, {ADDR_W{1'b0}}});
  assign put = in_valid && in_ready;
  assign take = out_valid && out_ready;
  assign read_next = read_at + (ADDR_W + 1)'(take);

  lp_ram #(.W(W), .DEPTH(DEPTH)) ram (
      .clk,
      .write(put),
      .write_address(write_at[ADDR_W-1:0]),
      .write_data(in_data),
      .read_address(read_next[ADDR_W-1:0]),
      .read_data(out_data)
  );

  always_ff @(posedge clk) begin
    if (rst) begin
      write_at  <= '0;
      read_at   <= '0;
      out_valid <= 1'b0;
    end else begin
      write_at  <= write_at + (ADDR_W + 1)'(put);
      read_at   <= read_next;
      // A word written in this cycle cannot be read in it yet.
      out_valid <= write_at != read_next;
    end
  end
endmodule
