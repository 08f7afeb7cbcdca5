// Feeds the array from the tile memories, one k per cycle and without a gap between blocks, as long
// as panels are there. The array itself never stops; instead a tile starts only when
//   - its panels are in the memories,
//   - the output FIFO has room for its rows (credits), counting all tiles under way,
//   - its last k will come ROWS cycles or more after the last tile's, as lp_array needs.
module lp_sequencer #(
    parameter int ROWS = 28,
    parameter int COLS = 28,
    parameter int K_DEPTH = 512,
    parameter int A_SLOTS = 2,
    parameter int B_SLOTS = 2,
    parameter int A_PANELS = 1,
    parameter int OUT_DEPTH = 512,
    localparam int ROWS_W = $clog2(ROWS + 1),
    localparam int COLS_W = $clog2(COLS + 1),
    localparam int K_W = $clog2(K_DEPTH + 1),
    localparam int PANEL_W = $clog2(A_PANELS + 1),
    localparam int A_SLOT_W = A_SLOTS > 1 ? $clog2(A_SLOTS) : 1,
    localparam int B_SLOT_W = B_SLOTS > 1 ? $clog2(B_SLOTS) : 1,
    localparam int A_COUNT_W = $clog2(A_SLOTS + 1),
    localparam int B_COUNT_W = $clog2(B_SLOTS + 1),
    localparam int A_ADDR_W = $clog2(A_SLOTS * K_DEPTH),
    localparam int B_ADDR_W = $clog2(B_SLOTS * K_DEPTH)
) (
    input  logic                 clk,
    input  logic                 rst,
    // The walker.
    input  logic                 active,
    input  logic [   ROWS_W-1:0] rows,
    input  logic [   COLS_W-1:0] cols,
    input  logic [      K_W-1:0] length,
    input  logic                 zero,
    input  logic                 first_k,
    input  logic                 last_k,
    input  logic [  PANEL_W-1:0] panel,
    input  logic                 free_a,
    input  logic                 free_b,
    output logic                 next,
    // The loaders.
    input  logic [A_COUNT_W-1:0] a_available,
    input  logic [ A_SLOT_W-1:0] a_head,
    output logic                 a_free,
    output logic [A_COUNT_W-1:0] a_free_count,
    input  logic [B_COUNT_W-1:0] b_available,
    input  logic [ B_SLOT_W-1:0] b_head,
    output logic                 b_free,
    // The memories, whose words appear with the flags below.
    output logic [ A_ADDR_W-1:0] a_address,
    output logic [ B_ADDR_W-1:0] b_address,
    // The array.
    output logic                 feed,          // else zeros
    output logic                 first,
    output logic                 last,
    // The tiles under way, for the collector.
    output logic                 tile_valid,
    input  logic                 tile_ready,
    output logic [   ROWS_W-1:0] tile_rows,
    output logic [   COLS_W-1:0] tile_cols,
    input  logic                 row_taken      // a row left the output FIFO
);
  localparam int CREDIT_W = $clog2(OUT_DEPTH + 1);
  localparam int GAP_W = $clog2(ROWS + 1);

  if (K_DEPTH < ROWS) begin : g_bad_k_depth
    $fatal(1, "lp_sequencer: K_DEPTH = %0d must be at least ROWS = %0d", K_DEPTH, ROWS);
  end
  if (OUT_DEPTH < ROWS) begin : g_bad_out_depth
    $fatal(1, "lp_sequencer: OUT_DEPTH = %0d must be at least ROWS = %0d", OUT_DEPTH, ROWS);
  end

  logic [K_W-1:0] count;
  logic [CREDIT_W-1:0] credits;
  logic [GAP_W-1:0] gap;  // cycles until `last` may come again

  logic starts, ends, operands_ready, tile_may_start, issue;
  assign starts = count == 0;
  assign ends = count == length - 1'b1;
  assign operands_ready = zero || (a_available > A_COUNT_W'(panel) && b_available != 0);
  assign tile_may_start = tile_ready && credits >= CREDIT_W'(rows) && K_W'(gap) < length;
  assign issue = active && (!starts || (operands_ready && (!first_k || tile_may_start)));
  assign next = issue && ends;

  assign a_free = next && free_a;
  assign a_free_count = A_COUNT_W'(panel) + 1'b1;
  assign b_free = next && free_b;

  assign tile_valid = issue && starts && first_k;
  assign tile_rows = rows;
  assign tile_cols = cols;

  logic [A_COUNT_W:0] a_slot;
  logic [A_SLOT_W-1:0] a_slot_wrapped;
  assign a_slot = (A_COUNT_W + 1)'(a_head) + (A_COUNT_W + 1)'(panel);
  assign a_slot_wrapped = A_SLOT_W'(
      a_slot >= (A_COUNT_W + 1)'(A_SLOTS) ? a_slot - (A_COUNT_W + 1)'(A_SLOTS) : a_slot);
  assign a_address = A_ADDR_W'(a_slot_wrapped) * A_ADDR_W'(K_DEPTH) + A_ADDR_W'(count);
  assign b_address = B_ADDR_W'(b_head) * B_ADDR_W'(K_DEPTH) + B_ADDR_W'(count);

  always_ff @(posedge clk) begin
    feed  <= issue && !zero;
    first <= issue && starts && first_k;
    last  <= issue && ends && last_k && !rst;
    if (rst) begin
      count <= '0;
      credits <= CREDIT_W'(OUT_DEPTH);
      gap <= '0;
    end else begin
      if (issue) count <= ends ? '0 : count + 1'b1;
      credits <= credits - (tile_valid ? CREDIT_W'(rows) : '0) + CREDIT_W'(row_taken);
      if (issue && ends && last_k) gap <= GAP_W'(ROWS - 1);
      else if (gap != 0) gap <= gap - 1'b1;
    end
  end
endmodule
