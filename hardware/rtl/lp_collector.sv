// Rounds what leaves the array's columns and puts a tile's rows together: column j is delayed by
// COLS - 1 - j cycles, so that all lanes of a row meet. Rows beyond the tile's are dropped, lanes
// beyond its columns are 0.
//
// Every column has its own LFSR. Column j starts from {1, seed ^ C_j}, C_j = (j + 1) 0x9E3779B9
// modulo 2^32 (after a reset, seed = 0), and takes one word for each of the ROWS sums of a tile, dropped ones included: row i
// of the t-th tile since the seed has word t ROWS + i.
module lp_collector #(
    parameter int ROWS = 28,
    parameter int COLS = 28,
    parameter int WL = 16,
    parameter int ACC_W = 48,
    parameter int CUT_MAX = 32,
    parameter int MODES = 31,
    localparam int CUT_W = $clog2(CUT_MAX + 1),
    localparam int ROWS_W = $clog2(ROWS + 1),
    localparam int COLS_W = $clog2(COLS + 1)
) (
    input  logic                       clk,
    input  logic                       rst,
    input  logic [      2:0]           mode,
    input  logic [CUT_W-1:0]           cut,
    input  logic                       seed_load,
    input  logic [     31:0]           seed,
    input  logic [ COLS-1:0]           sum_valid,
    input  logic [ COLS-1:0][ACC_W-1:0] sum,
    // The tile that leaves next.
    input  logic [ROWS_W-1:0]          tile_rows,
    input  logic [COLS_W-1:0]          tile_cols,
    output logic                       tile_done,
    // A row, every cycle at most; there must be room for it.
    output logic                       row_valid,
    output logic [ COLS-1:0][WL-1:0]   row,
    output logic [ COLS-1:0]           row_keep,
    output logic [ COLS-1:0]           row_beyond,
    output logic                       row_last    // of the tile
);
  logic [COLS-1:0] valid, beyond;
  logic [COLS-1:0][WL-1:0] value;

  for (genvar j = 0; j < COLS; j++) begin : g_col
    localparam logic [31:0] OFFSET = 32'((64'(j) + 64'd1) * 64'h9E3779B9);
    logic out_valid, out_beyond;
    logic [WL-1:0] out_value;
    lp_round #(.WL(WL), .ACC_W(ACC_W), .CUT_MAX(CUT_MAX), .MODES(MODES)) rounding (
        .clk,
        .rst,
        .mode,
        .cut,
        .seed_load(seed_load || rst),
        .seed({1'b1, (rst ? '0 : seed) ^ OFFSET}),
        .in_valid(sum_valid[j]),
        .in_sum(sum[j]),
        .out_valid,
        .out_value(out_value),
        .out_beyond
    );
    lp_delay #(.W(WL + 1), .DEPTH(COLS - 1 - j)) align (
        .clk,
        .in({out_beyond, out_value}),
        .out({beyond[j], value[j]})
    );
    lp_delay_reset #(.DEPTH(COLS - 1 - j)) align_valid (
        .clk,
        .rst,
        .in(out_valid),
        .out(valid[j])
    );
  end

  logic [ROWS_W-1:0] count;
  assign row_valid = valid[0] && count < tile_rows;
  assign row_last = count == tile_rows - 1'b1;
  assign tile_done = valid[0] && count == ROWS_W'(ROWS - 1);
  for (genvar j = 0; j < COLS; j++) begin : g_lane
    assign row_keep[j] = COLS_W'(j) < tile_cols;
    assign row[j] = row_keep[j] ? value[j] : '0;
    assign row_beyond[j] = row_keep[j] && beyond[j];
  end
  wire unused = &{1'b0, valid};  // all the same

  always_ff @(posedge clk) begin
    if (rst) count <= '0;
    else if (valid[0]) count <= tile_done ? '0 : count + 1'b1;
  end
endmodule
