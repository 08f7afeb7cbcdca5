// The rounding unit at the foot of a column: an exact sum to a WL-bit fixed-point number.
//
// The sum is an integer in units of 2^-(FLa + FLb); the result has FL fractional bits, so
// `cut` = FLa + FLb - FL of the sum's bits lie below the cut. With x = sum / 2^cut the result is
//
//   STOCHASTIC    floor(x + r / 2^24)     r: the LFSR's word of 24 bits
//   NEAREST_UP    floor(x + 1/2)
//   NEAREST_EVEN  x to the nearest integer, a tie to the even one
//   TOWARD_ZERO   x without its fraction
//   FLOOR         floor(x): the bits below the cut are dropped
//
// saturated to WL bits: lp.quantize with random_bits = r. For cut < 24 only the top `cut` bits of r
// can make a difference; for cut > 24 the sum's bits below 2^-24 cannot, if r decides.
//
// Two stages. The LFSR advances once for each sum, in every mode.
module lp_round #(
    parameter int WL = 16,
    parameter int ACC_W = 48,
    parameter int CUT_MAX = 32,
    parameter int MODES = 31,  // bit i: mode i is built
    localparam int CUT_W = $clog2(CUT_MAX + 1)
) (
    input  logic                    clk,
    input  logic                    rst,
    // Steady while sums are under way.
    input  logic        [      2:0] mode,
    input  logic        [CUT_W-1:0] cut,
    input  logic                    seed_load,
    input  logic        [     32:0] seed,
    input  logic                    in_valid,
    input  logic signed [ACC_W-1:0] in_sum,
    output logic                    out_valid,
    output logic signed [   WL-1:0] out_value,
    output logic                    out_beyond  // the exact x lies beyond the format's range
);
  // The modes' codes, also in hardware/codes.py.
  localparam logic [2:0] FLOOR = 0, TOWARD_ZERO = 1, NEAREST_EVEN = 2, NEAREST_UP = 3;
  localparam logic [2:0] STOCHASTIC = 4;
  localparam logic [7:0] BUILT = 8'(MODES);
  localparam int R = 24;  // random bits

  if (WL < 2) begin : g_bad_wl
    $fatal(1, "lp_round: WL = %0d must be at least 2", WL);
  end
  if (ACC_W < WL + 1) begin : g_bad_acc_w
    $fatal(1, "lp_round: ACC_W = %0d must be above WL = %0d", ACC_W, WL);
  end
  if (CUT_MAX <= R || CUT_MAX >= ACC_W) begin : g_bad_cut_max
    $fatal(1, "lp_round: CUT_MAX = %0d must be above %0d and below ACC_W = %0d", CUT_MAX, R, ACC_W);
  end
  if (MODES < 1 || MODES > 31) begin : g_bad_modes
    $fatal(1, "lp_round: MODES = %0d must be in 1..31", MODES);
  end

  // Stage 1: whole + part / 2^24, with `sticky` for whatever is left below.
  logic signed [ACC_W+CUT_MAX-1:0] shifted;
  assign shifted = $signed({in_sum, {CUT_MAX{1'b0}}}) >>> cut;

  logic valid, sticky;
  logic signed [ACC_W-1:0] whole;
  logic [R-1:0] part;
  always_ff @(posedge clk) begin
    valid  <= in_valid && !rst;
    whole  <= shifted[CUT_MAX+:ACC_W];
    part   <= shifted[CUT_MAX-1-:R];
    sticky <= |shifted[CUT_MAX-R-1:0];
  end

  // Stage 2: what is added, in units of 2^-25; its carry rounds up.
  logic [R-1:0] random;
  if (BUILT[STOCHASTIC]) begin : g_lfsr
    lp_lfsr #(.WORD(R)) lfsr (.clk, .load(seed_load), .seed, .advance(valid), .word(random));
  end else begin : g_no_lfsr
    assign random = '0;
    wire unused = &{1'b0, seed_load, seed};
  end

  logic [R:0] increment;
  always_comb begin
    increment = '0;
    if (BUILT[TOWARD_ZERO] && mode == TOWARD_ZERO) increment = {(R + 1) {whole[ACC_W-1]}};
    if (BUILT[NEAREST_EVEN] && mode == NEAREST_EVEN) increment = {whole[0], {R{!whole[0]}}};
    if (BUILT[NEAREST_UP] && mode == NEAREST_UP) increment = {1'b1, {R{1'b0}}};
    if (BUILT[STOCHASTIC] && mode == STOCHASTIC) increment = {random, 1'b0};
  end
  wire unused_floor = &{1'b0, FLOOR};

  logic [R:0] below;
  logic carry;
  assign {carry, below} = {1'b0, part, sticky} + {1'b0, increment};
  wire unused_below = &{1'b0, below};

  // No overflow: where cut is 0 there is no carry.
  logic signed [ACC_W-1:0] rounded;
  assign rounded = whole + $signed({{(ACC_W - 1) {1'b0}}, carry});

  localparam int TOP = ACC_W - WL + 1;  // bits that must all be the sign
  logic fits, whole_fits, at_max;
  assign fits = rounded[ACC_W-1:WL-1] == {TOP{rounded[ACC_W-1]}};
  assign whole_fits = whole[ACC_W-1:WL-1] == {TOP{whole[ACC_W-1]}};
  assign at_max = !whole[ACC_W-1] && &whole[WL-2:0];

  always_ff @(posedge clk) begin
    out_valid  <= valid && !rst;
    out_value  <= fits ? rounded[WL-1:0] : {rounded[ACC_W-1], {(WL - 1) {!rounded[ACC_W-1]}}};
    out_beyond <= !whole_fits || (at_max && (sticky || part != 0));
  end
endmodule
