// The output-stationary array: ROWS x COLS processing elements, and the skewing of what goes in.
//
// Each cycle takes one column of a tile of A (a[i], for row i) and one row of a tile of B (b[j]),
// or zeros. `first` and `last` mark a tile's first and last. Lane i waits for its row, lane j for
// its column; the sums leave at the foot of each column, column j + 1 one cycle after column j, row
// 0 first: matrix row i sits in array row ROWS - 1 - i.
//
// A tile's `last` may follow the one before by ROWS cycles or more, not earlier (lp_sequencer sees
// to it): a column drains one sum per cycle. The array never stops: what follows must take each
// sum.
module lp_array #(
    parameter int ROWS = 28,
    parameter int COLS = 28,
    parameter int WL = 16,
    parameter int ACC_W = 48
) (
    input  logic                       clk,
    input  logic                       rst,
    input  logic [ROWS-1:0][   WL-1:0] a,
    input  logic [COLS-1:0][   WL-1:0] b,
    input  logic                       first,
    input  logic                       last,
    output logic [COLS-1:0]            sum_valid,
    output logic [COLS-1:0][ACC_W-1:0] sum
);
  if (ROWS < 1 || COLS < 1) begin : g_bad_rows
    $fatal(1, "lp_array: ROWS = %0d and COLS = %0d must be at least 1", ROWS, COLS);
  end

  // [i][j] is what enters element (i, j); operands enter at column 0 and row 0.
  logic [WL-1:0] a_at[ROWS][COLS+1];
  logic [WL-1:0] b_at[ROWS+1][COLS];
  logic first_at[ROWS][COLS+1];
  logic last_at[ROWS][COLS+1];
  logic shift_at[ROWS+1][COLS];
  logic [ACC_W-1:0] drain_at[ROWS+1][COLS];
  logic go[COLS];

  for (genvar i = 0; i < ROWS; i++) begin : g_skew_a
    lp_delay #(.W(WL), .DEPTH(i)) operand (.clk, .in(a[ROWS-1-i]), .out(a_at[i][0]));
    lp_delay #(.W(1), .DEPTH(i)) first_flag (.clk, .in(first), .out(first_at[i][0]));
    lp_delay_reset #(.DEPTH(i)) last_flag (.clk, .rst, .in(last), .out(last_at[i][0]));
  end
  for (genvar j = 0; j < COLS; j++) begin : g_skew_b
    lp_delay #(.W(WL), .DEPTH(j)) operand (.clk, .in(b[j]), .out(b_at[0][j]));
    assign shift_at[0][j] = 1'b0;
    assign drain_at[0][j] = '0;
  end

  for (genvar i = 0; i < ROWS; i++) begin : g_row
    for (genvar j = 0; j < COLS; j++) begin : g_col
      logic loaded, shift;
      lp_pe #(.WL(WL), .ACC_W(ACC_W)) pe (
          .clk,
          .rst,
          .a_in(a_at[i][j]),
          .b_in(b_at[i][j]),
          .first_in(first_at[i][j]),
          .last_in(last_at[i][j]),
          .a_out(a_at[i][j+1]),
          .b_out(b_at[i+1][j]),
          .first_out(first_at[i][j+1]),
          .last_out(last_at[i][j+1]),
          .go(go[j]),
          .shift_in(shift_at[i][j]),
          .shift_out(shift_at[i+1][j]),
          .shift,
          .loaded,
          .drain_in(drain_at[i][j]),
          .drain(drain_at[i+1][j])
      );
      if (i == ROWS - 1) begin : g_foot
        assign go[j] = loaded;
        assign sum_valid[j] = shift;
        assign sum[j] = drain_at[ROWS][j];
      end else begin : g_body
        wire unused = &{1'b0, loaded, shift};
      end
    end
  end

  // What leaves on the far sides has no use.
  for (genvar i = 0; i < ROWS; i++) begin : g_right
    wire unused = &{1'b0, a_at[i][COLS], first_at[i][COLS], last_at[i][COLS]};
  end
  for (genvar j = 0; j < COLS; j++) begin : g_bottom
    wire unused = &{1'b0, b_at[ROWS][j], shift_at[ROWS][j]};
  end
endmodule
