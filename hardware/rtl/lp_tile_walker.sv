// Walks over the blocks of a product, in the order in which they are computed. A block is a tile of
// the result (ROWS x COLS) times at most K_DEPTH consecutive k.
//
//   for each group of A_PANELS row tiles (of 1, if K > K_DEPTH)
//     for each column tile
//       for each row tile of the group ("panel")
//         for each run of at most K_DEPTH k
//
// Where one run holds all of K, the operands are resident: a group's panels of A are loaded once
// for all column tiles, and a panel of B once for all panels of the group. Else every block loads
// both. Both loaders and the sequencer own a walker each, so that loading runs ahead of computing.
//
// K = 0 gives one block per tile, of one k, that loads nothing: the sequencer feeds it zeros.
// Counts down, so that no division is needed for sizes that are no multiple of the array.
module lp_tile_walker #(
    parameter int ROWS = 28,
    parameter int COLS = 28,
    parameter int K_DEPTH = 512,
    parameter int A_PANELS = 1,
    parameter int DIM_W = 24,
    localparam int ROWS_W = $clog2(ROWS + 1),
    localparam int COLS_W = $clog2(COLS + 1),
    localparam int K_W = $clog2(K_DEPTH + 1),
    localparam int PANEL_W = $clog2(A_PANELS + 1)
) (
    input  logic               clk,
    input  logic               rst,
    input  logic               start,       // with m, n > 0
    input  logic [  DIM_W-1:0] m,
    input  logic [  DIM_W-1:0] n,
    input  logic [  DIM_W-1:0] k,
    input  logic               next,        // on to the next block
    output logic               active,      // the outputs below describe a block
    output logic [ ROWS_W-1:0] rows,        // of the result's tile, 1..ROWS
    output logic [ COLS_W-1:0] cols,
    output logic [    K_W-1:0] length,      // k in this block, 1..K_DEPTH
    output logic               zero,        // K = 0
    output logic               first_k,     // the tile's first block
    output logic               last_k,
    output logic [PANEL_W-1:0] panel,       // within the group
    output logic               load_a,      // the block is the first to use its panel of A
    output logic               load_b,
    output logic               free_a,      // it is the last to use the panels of A up to `panel`
    output logic               free_b
);
  logic [DIM_W-1:0] all_n, all_k;
  // What is left, this group, panel, column tile and run included.
  logic [DIM_W-1:0] group_left, rows_left, cols_left, k_left;
  logic resident, short_k, first_col, last_row, last_panel, last_col, halves;

  // Constant where one block can hold all that DIM_W can.
  /* verilator lint_off CMPCONST */
  assign last_row = rows_left <= DIM_W'(ROWS);
  assign last_col = cols_left <= DIM_W'(COLS);
  assign last_k = k_left <= DIM_W'(K_DEPTH);
  assign short_k = k <= DIM_W'(K_DEPTH);
  /* verilator lint_on CMPCONST */
  assign last_panel = last_row || !resident || panel == PANEL_W'(A_PANELS - 1);

  assign rows = last_row ? ROWS_W'(rows_left) : ROWS_W'(ROWS);
  assign cols = last_col ? COLS_W'(cols_left) : COLS_W'(COLS);
  // The last two runs are equal, or loading the next one would take longer than a short one lasts.
  assign halves = {1'b0, k_left} < (DIM_W + 1)'(2 * K_DEPTH);
  always_comb begin
    if (zero) length = K_W'(1);
    else if (last_k) length = K_W'(k_left);
    else if (halves) length = K_W'((k_left + 1'b1) >> 1);
    else length = K_W'(K_DEPTH);
  end
  assign load_a = !zero && (!resident || first_col);
  assign load_b = !zero && (!resident || panel == 0);
  assign free_a = !zero && (!resident || (last_panel && last_col));
  assign free_b = !zero && (!resident || last_panel);

  always_ff @(posedge clk) begin
    if (rst) begin
      active <= 1'b0;
    end else if (start) begin
      active <= 1'b1;
      all_n <= n;
      all_k <= k;
      resident <= short_k;
      zero <= k == 0;
      group_left <= m;
      rows_left <= m;
      cols_left <= n;
      k_left <= k;
      panel <= '0;
      first_k <= 1'b1;
      first_col <= 1'b1;
    end else if (next && active) begin
      first_k <= last_k;
      if (!last_k) begin
        k_left <= k_left - DIM_W'(length);
      end else begin
        k_left <= all_k;
        if (!last_panel) begin
          panel <= panel + 1'b1;
          rows_left <= rows_left - DIM_W'(ROWS);
        end else begin
          panel <= '0;
          first_col <= last_col;
          if (!last_col) begin
            cols_left <= cols_left - DIM_W'(COLS);
            rows_left <= group_left;
          end else begin
            cols_left  <= all_n;
            rows_left  <= rows_left - DIM_W'(ROWS);
            group_left <= rows_left - DIM_W'(ROWS);
            active <= !last_row;
          end
        end
      end
    end
  end
endmodule
