// Multiplies fixed-point matrices of any size: C = round(A . B), with the rounding of lp_round.
//
// A job is one product of an M x K by a K x N matrix of WL-bit integers. It is given on cmd_*, its
// operands come on s_a_* and s_b_*, the result leaves on m_c_*, and status_* ends the job. All
// ports are valid/ready as in AXI-Stream. docs/hardware.md has the order of the beats; in short:
//
//   s_a  one beat per k: lane i is row i of the row tile. tlast: the panel's last k.
//   s_b  one beat per k: lane j is column j of the column tile. tlast as above.
//   m_c  one beat per row of a tile. tkeep: the columns that exist; tuser: the exact sum was beyond
//        the format's range (where straight-through gradients are masked); tlast: the last row.
//
// Operand tiles are double-buffered; A_PANELS row tiles share each panel of B, which divides its
// traffic by as much. The accumulator wraps modulo 2^ACC_W (lp_pe).
module lp_accelerator #(
    parameter int ROWS = 28,        // of the array
    parameter int COLS = 28,
    parameter int WL = 16,          // word length of A, B and C
    parameter int ACC_W = 48,       // accumulator width
    parameter int K_DEPTH = 512,    // longest panel that the tile memories hold
    parameter int A_PANELS = 1,     // row tiles that share a panel of B
    parameter int OUT_DEPTH = 512,  // rows in the output FIFO, a power of two
    parameter int DIM_W = 24,       // bits of M, N and K
    parameter int CUT_MAX = 32,     // most bits that can be cut from a sum
    parameter int MODES = 31,  // lp_round's modes that are built
    localparam int CUT_W = $clog2(CUT_MAX + 1)
) (
    input  logic                     clk,
    input  logic                     rst,           // synchronous
    // A job.
    input  logic                     cmd_valid,
    output logic                     cmd_ready,
    input  logic [DIM_W-1:0]         cmd_m,
    input  logic [DIM_W-1:0]         cmd_n,
    input  logic [DIM_W-1:0]         cmd_k,
    input  logic [CUT_W-1:0]         cmd_cut,
    input  logic [      2:0]         cmd_mode,
    input  logic                     cmd_reseed,    // else the LFSRs go on
    input  logic [     31:0]         cmd_seed,
    // A, by panels.
    input  logic                     s_a_tvalid,
    output logic                     s_a_tready,
    input  logic [ ROWS-1:0][WL-1:0] s_a_tdata,
    input  logic                     s_a_tlast,
    // B, by panels.
    input  logic                     s_b_tvalid,
    output logic                     s_b_tready,
    input  logic [ COLS-1:0][WL-1:0] s_b_tdata,
    input  logic                     s_b_tlast,
    // C, by tiles.
    output logic                     m_c_tvalid,
    input  logic                     m_c_tready,
    output logic [ COLS-1:0][WL-1:0] m_c_tdata,
    output logic [ COLS-1:0]         m_c_tkeep,
    output logic [ COLS-1:0]         m_c_tuser,
    output logic                     m_c_tlast,
    // The end of a job: all of C is in the output FIFO or out of it.
    output logic                     status_valid,
    input  logic                     status_ready,
    output logic                     status_refused,  // a cut or mode that is not built: no work,
                                                      // and the LFSRs stay as they are
    output logic                     status_a_short,  // a panel ended early: zeros were taken
    output logic                     status_a_long,   // a panel's end was not marked: beats dropped
    output logic                     status_b_short,
    output logic                     status_b_long,
    output logic                     status_may_wrap, // K is so long that a sum could wrap
    output logic [     47:0]         status_cycles    // from command to status
);
  localparam int A_SLOTS = A_PANELS < 1 ? 2 : 2 * A_PANELS;
  localparam int B_SLOTS = 2;
  localparam int ROWS_W = $clog2(ROWS + 1);
  localparam int COLS_W = $clog2(COLS + 1);
  localparam int K_W = $clog2(K_DEPTH + 1);
  localparam int PANEL_W = $clog2(A_PANELS + 1);
  localparam int A_SLOT_W = $clog2(A_SLOTS);
  localparam int A_COUNT_W = $clog2(A_SLOTS + 1);
  localparam int A_ADDR_W = $clog2(A_SLOTS * K_DEPTH);
  localparam int B_ADDR_W = $clog2(B_SLOTS * K_DEPTH);
  // Tiles between sequencer and collector: a tile takes ROWS cycles or more.
  localparam int TILES = 2 ** $clog2((2 * ROWS + COLS + 16) / (ROWS < 1 ? 1 : ROWS) + 2);
  // Sums of fewer than 2^SAFE_W products fit the accumulator, whatever the operands.
  localparam int SAFE_W = ACC_W - 2 * WL + 1;
  localparam logic [7:0] BUILT = 8'(MODES);

  if (A_PANELS < 1) begin : g_bad_a_panels
    $fatal(1, "lp_accelerator: A_PANELS = %0d must be at least 1", A_PANELS);
  end
  if (DIM_W < 1 || DIM_W > 31 || DIM_W < K_W) begin : g_bad_dim_w
    $fatal(1, "lp_accelerator: DIM_W = %0d must hold K_DEPTH = %0d and be at most 31",
           DIM_W, K_DEPTH);
  end
  if (DIM_W < COLS_W) begin : g_bad_dim_w_cols
    $fatal(1, "lp_accelerator: DIM_W = %0d must hold COLS = %0d: %0d bits at least",
           DIM_W, COLS, COLS_W);
  end

  // --- the job --------------------------------------------------------------------------------
  typedef enum logic [1:0] {IDLE, RUN, STATUS} state_t;
  state_t state;
  logic [CUT_W-1:0] cut;
  logic [2:0] mode;
  logic accept, refused, start, finished;

  assign cmd_ready = state == IDLE;
  assign status_valid = state == STATUS;
  assign accept = cmd_valid && cmd_ready;
  assign refused = cmd_cut > CUT_W'(CUT_MAX) || !BUILT[cmd_mode];
  assign start = accept && !refused && cmd_m != 0 && cmd_n != 0;

  logic a_active, b_active, seq_active, a_idle, b_idle, tiles_empty;
  logic a_short, a_long, b_short, b_long;
  assign finished = !seq_active && tiles_empty && a_idle && b_idle;

  always_ff @(posedge clk) begin
    if (rst) begin
      state <= IDLE;
    end else begin
      case (state)
        IDLE:    if (accept) state <= start ? RUN : STATUS;
        RUN:     if (finished) state <= STATUS;
        default: if (status_ready) state <= IDLE;
      endcase
    end
    if (accept) begin
      cut <= cmd_cut;
      mode <= cmd_mode;
      status_refused <= refused;
      status_may_wrap <= start && SAFE_W < DIM_W && (cmd_k >> SAFE_W) != 0;
      {status_a_short, status_a_long, status_b_short, status_b_long} <= '0;
      status_cycles <= '0;
    end else if (state == RUN) begin
      status_a_short <= status_a_short || a_short;
      status_a_long  <= status_a_long || a_long;
      status_b_short <= status_b_short || b_short;
      status_b_long  <= status_b_long || b_long;
      status_cycles  <= status_cycles + 1'b1;
    end
  end

  // --- A and B into the tile memories ---------------------------------------------------------
  logic [K_W-1:0] a_length, b_length;
  logic a_needed, b_needed, a_next, b_next, a_free, b_free, a_write, b_write;
  logic [A_COUNT_W-1:0] a_free_count, a_available;
  logic [1:0] b_available;
  logic [A_SLOT_W-1:0] a_head;
  logic b_head;
  logic [A_ADDR_W-1:0] a_write_address, a_address;
  logic [B_ADDR_W-1:0] b_write_address, b_address;
  logic [ROWS-1:0][WL-1:0] a_write_data, a_word;
  logic [COLS-1:0][WL-1:0] b_write_data, b_word;

  /* verilator lint_off PINCONNECTEMPTY */
  lp_tile_walker #(
      .ROWS(ROWS), .COLS(COLS), .K_DEPTH(K_DEPTH), .A_PANELS(A_PANELS), .DIM_W(DIM_W)
  ) a_walker (
      .clk, .rst, .start, .m(cmd_m), .n(cmd_n), .k(cmd_k),
      .next(a_next), .active(a_active), .length(a_length), .load_a(a_needed),
      .rows(), .cols(), .zero(), .first_k(), .last_k(), .panel(), .load_b(), .free_a(), .free_b()
  );
  lp_tile_walker #(
      .ROWS(ROWS), .COLS(COLS), .K_DEPTH(K_DEPTH), .A_PANELS(A_PANELS), .DIM_W(DIM_W)
  ) b_walker (
      .clk, .rst, .start, .m(cmd_m), .n(cmd_n), .k(cmd_k),
      .next(b_next), .active(b_active), .length(b_length), .load_b(b_needed),
      .rows(), .cols(), .zero(), .first_k(), .last_k(), .panel(), .load_a(), .free_a(), .free_b()
  );

  lp_tile_loader #(.W(ROWS * WL), .K_DEPTH(K_DEPTH), .SLOTS(A_SLOTS)) a_loader (
      .clk, .rst,
      .tdata(s_a_tdata), .tvalid(s_a_tvalid), .tready(s_a_tready), .tlast(s_a_tlast),
      .active(a_active), .needed(a_needed), .length(a_length), .next(a_next),
      .free(a_free), .free_count(a_free_count), .available(a_available), .head(a_head),
      .write(a_write), .address(a_write_address), .data(a_write_data),
      .idle(a_idle), .short_panel(a_short), .long_panel(a_long)
  );
  lp_tile_loader #(.W(COLS * WL), .K_DEPTH(K_DEPTH), .SLOTS(B_SLOTS)) b_loader (
      .clk, .rst,
      .tdata(s_b_tdata), .tvalid(s_b_tvalid), .tready(s_b_tready), .tlast(s_b_tlast),
      .active(b_active), .needed(b_needed), .length(b_length), .next(b_next),
      .free(b_free), .free_count(2'd1), .available(b_available), .head(b_head),
      .write(b_write), .address(b_write_address), .data(b_write_data),
      .idle(b_idle), .short_panel(b_short), .long_panel(b_long)
  );

  lp_ram #(.W(ROWS * WL), .DEPTH(A_SLOTS * K_DEPTH)) a_memory (
      .clk, .write(a_write), .write_address(a_write_address), .write_data(a_write_data),
      .read_address(a_address), .read_data(a_word)
  );
  lp_ram #(.W(COLS * WL), .DEPTH(B_SLOTS * K_DEPTH)) b_memory (
      .clk, .write(b_write), .write_address(b_write_address), .write_data(b_write_data),
      .read_address(b_address), .read_data(b_word)
  );

  // --- through the array ----------------------------------------------------------------------
  logic [ROWS_W-1:0] seq_rows, tile_rows, out_rows;
  logic [COLS_W-1:0] seq_cols, tile_cols, out_cols;
  logic [K_W-1:0] seq_length;
  logic [PANEL_W-1:0] seq_panel;
  logic seq_zero, seq_first_k, seq_last_k, seq_free_a, seq_free_b, seq_next;
  logic feed, first, last, tile_valid, tile_ready, tile_done, row_taken;

  lp_tile_walker #(
      .ROWS(ROWS), .COLS(COLS), .K_DEPTH(K_DEPTH), .A_PANELS(A_PANELS), .DIM_W(DIM_W)
  ) seq_walker (
      .clk, .rst, .start, .m(cmd_m), .n(cmd_n), .k(cmd_k),
      .next(seq_next), .active(seq_active), .rows(seq_rows), .cols(seq_cols),
      .length(seq_length), .zero(seq_zero), .first_k(seq_first_k), .last_k(seq_last_k),
      .panel(seq_panel), .load_a(), .load_b(), .free_a(seq_free_a), .free_b(seq_free_b)
  );
  lp_sequencer #(
      .ROWS(ROWS), .COLS(COLS), .K_DEPTH(K_DEPTH), .A_SLOTS(A_SLOTS), .B_SLOTS(B_SLOTS),
      .A_PANELS(A_PANELS), .OUT_DEPTH(OUT_DEPTH)
  ) sequencer (
      .clk, .rst,
      .active(seq_active), .rows(seq_rows), .cols(seq_cols), .length(seq_length),
      .zero(seq_zero), .first_k(seq_first_k), .last_k(seq_last_k), .panel(seq_panel),
      .free_a(seq_free_a), .free_b(seq_free_b), .next(seq_next),
      .a_available, .a_head, .a_free, .a_free_count, .b_available, .b_head, .b_free,
      .a_address, .b_address, .feed, .first, .last,
      .tile_valid, .tile_ready, .tile_rows, .tile_cols, .row_taken
  );

  logic [COLS-1:0] sum_valid;
  logic [COLS-1:0][ACC_W-1:0] sum;
  lp_array #(.ROWS(ROWS), .COLS(COLS), .WL(WL), .ACC_W(ACC_W)) array (
      .clk, .rst, .a(feed ? a_word : '0), .b(feed ? b_word : '0), .first, .last, .sum_valid, .sum
  );

  // --- out ------------------------------------------------------------------------------------
  lp_fifo #(.W(ROWS_W + COLS_W), .DEPTH(TILES)) tiles (
      .clk, .rst,
      .in_valid(tile_valid), .in_ready(tile_ready), .in_data({tile_rows, tile_cols}),
      .out_valid(), .out_ready(tile_done), .out_data({out_rows, out_cols}), .empty(tiles_empty)
  );

  logic row_valid, row_last;
  logic [COLS-1:0][WL-1:0] row;
  logic [COLS-1:0] row_keep, row_beyond;
  lp_collector #(
      .ROWS(ROWS), .COLS(COLS), .WL(WL), .ACC_W(ACC_W), .CUT_MAX(CUT_MAX), .MODES(MODES)
  ) collector (
      .clk, .rst, .mode, .cut, .seed_load(accept && !refused && cmd_reseed), .seed(cmd_seed),
      .sum_valid, .sum, .tile_rows(out_rows), .tile_cols(out_cols), .tile_done,
      .row_valid, .row, .row_keep, .row_beyond, .row_last
  );

  assign row_taken = m_c_tvalid && m_c_tready;
  lp_fifo #(.W(1 + COLS * (WL + 2)), .DEPTH(OUT_DEPTH)) out (
      .clk, .rst,
      .in_valid(row_valid), .in_ready(),  // there is room: the sequencer's credits
      .in_data({row_last, row_beyond, row_keep, row}),
      .out_valid(m_c_tvalid), .out_ready(m_c_tready),
      .out_data({m_c_tlast, m_c_tuser, m_c_tkeep, m_c_tdata}), .empty()
  );
  /* verilator lint_on PINCONNECTEMPTY */
endmodule
