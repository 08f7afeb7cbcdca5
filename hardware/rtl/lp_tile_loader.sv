// Loads one operand's panels from its stream into the tile memory, a beat per k, in the order of
// the walker, into SLOTS slots in turn; never more panels than there are free slots.
//
// `tlast` marks the last beat of each panel. A panel that ends early is short: the missing beats
// count as zeros. One whose last beat is not marked is long: beats are dropped up to the mark.
// Either way the next panel starts in step, and the job's status tells.
module lp_tile_loader #(
    parameter int W = 448,
    parameter int K_DEPTH = 512,
    parameter int SLOTS = 2,
    localparam int K_W = $clog2(K_DEPTH + 1),
    localparam int SLOT_W = SLOTS > 1 ? $clog2(SLOTS) : 1,
    localparam int COUNT_W = $clog2(SLOTS + 1),
    localparam int ADDR_W = $clog2(SLOTS * K_DEPTH)
) (
    input  logic               clk,
    input  logic               rst,
    // The stream.
    input  logic [      W-1:0] tdata,
    input  logic               tvalid,
    output logic               tready,
    input  logic               tlast,
    // The walker.
    input  logic               active,
    input  logic               needed,     // load_a or load_b
    input  logic [    K_W-1:0] length,
    output logic               next,
    // The sequencer's view of the memory: `available` panels from slot `head` on.
    input  logic               free,
    input  logic [COUNT_W-1:0] free_count,
    output logic [COUNT_W-1:0] available,
    output logic [ SLOT_W-1:0] head,
    // The memory's write port.
    output logic               write,
    output logic [ ADDR_W-1:0] address,
    output logic [      W-1:0] data,
    output logic               idle,
    output logic               short_panel,  // pulses
    output logic               long_panel
);
  if (K_DEPTH < 2) begin : g_bad_k_depth
    $fatal(1, "lp_tile_loader: K_DEPTH = %0d must be at least 2", K_DEPTH);
  end

  typedef enum logic [1:0] {
    LOAD,  // beats into the memory
    FILL,  // zeros in place of beats that did not come
    SKIP   // beats too many
  } state_t;
  state_t state;
  logic [K_W-1:0] count;
  logic [SLOT_W-1:0] tail;
  logic beat, ends, loaded;

  assign ends = count == length - 1'b1;
  assign idle = state == LOAD && !active;

  always_comb begin
    case (state)
      LOAD: tready = active && needed && available != COUNT_W'(SLOTS);
      SKIP: tready = 1'b1;
      default: tready = 1'b0;
    endcase
  end
  assign beat = tvalid && tready;
  assign write = (beat && state == LOAD) || state == FILL;
  assign data = state == FILL ? '0 : tdata;
  assign address = ADDR_W'(tail) * ADDR_W'(K_DEPTH) + ADDR_W'(count);
  assign loaded = write && ends;
  assign next = loaded || (state == LOAD && active && !needed);
  assign short_panel = beat && state == LOAD && tlast && !ends;
  assign long_panel = beat && state == LOAD && !tlast && ends;

  // (slot + step) modulo SLOTS, for step <= SLOTS.
  function automatic logic [SLOT_W-1:0] advance(input logic [SLOT_W-1:0] slot,
                                                input logic [COUNT_W-1:0] step);
    logic [COUNT_W:0] sum;
    sum = (COUNT_W + 1)'(slot) + (COUNT_W + 1)'(step);
    return SLOT_W'(sum >= (COUNT_W + 1)'(SLOTS) ? sum - (COUNT_W + 1)'(SLOTS) : sum);
  endfunction

  always_ff @(posedge clk) begin
    if (rst) begin
      state <= LOAD;
      count <= '0;
      tail <= '0;
      head <= '0;
      available <= '0;
    end else begin
      case (state)
        LOAD:    if (short_panel) state <= FILL;
                 else if (long_panel) state <= SKIP;
        FILL:    if (ends) state <= LOAD;
        default: if (beat && tlast) state <= LOAD;
      endcase
      if (write) count <= ends ? '0 : count + 1'b1;
      if (loaded) tail <= advance(tail, COUNT_W'(1));
      if (free) head <= advance(head, free_count);
      available <= available + COUNT_W'(loaded) - (free ? free_count : '0);
    end
  end
endmodule
