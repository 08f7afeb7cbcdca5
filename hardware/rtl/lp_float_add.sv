// s + y rounded once to the format of s: (1, E, M) with subnormals, infinity and NaN. y is exact,
// of up to SIG_W bits, unpacked as lp_float_multiply gives it.
//
// Operands are compared as (exponent, significand): subnormals have the lowest exponent, and so has
// a y without a top bit. The larger operand stays; the other one is shifted right, and what falls
// out is kept as one sticky bit. With two places or more between them, the sum loses at most one
// place at the top; with fewer, nothing fell out. So FRACTION places below are enough to round the
// exact sum: one to compare with half a unit, RANDOM_W for stochastic rounding, none to truncate.
module lp_float_add #(
    parameter int E = 6,
    parameter int M = 9,
    parameter int SIG_W = 6,
    parameter int EXP_W = 9,
    parameter int ROUNDING = 0,   // 0 nearest even, 1 nearest up, 2 toward zero, 3 stochastic
    parameter int RANDOM_W = 16,
    localparam int W = 1 + E + M
) (
    input  logic        [       W-1:0] s,
    input  logic                       y_sign,
    input  logic signed [   EXP_W-1:0] y_exponent,
    input  logic        [   SIG_W-1:0] y_significand,  // top bit set, or the exponent of subnormals
    input  logic                       y_zero,
    input  logic                       y_infinite,
    input  logic                       y_nan,
    input  logic        [RANDOM_W-1:0] random,         // r: floor(|s + y| / unit + r / 2^RANDOM_W)
    output logic        [       W-1:0] sum
);
  localparam int NEAREST_EVEN = 0, NEAREST_UP = 1, TOWARD_ZERO = 2, STOCHASTIC = 3;
  if (E < 2 || M < 1) begin : g_bad_e
    $fatal(1, "lp_float_add: E = %0d must be at least 2 and M = %0d at least 1", E, M);
  end
  if (ROUNDING < NEAREST_EVEN || ROUNDING > STOCHASTIC) begin : g_bad_rounding
    $fatal(1, "lp_float_add: ROUNDING = %0d must be in 0..3", ROUNDING);
  end
  if (EXP_W < E + 2) begin : g_bad_exp_w
    $fatal(1, "lp_float_add: EXP_W = %0d must be at least E + 2 = %0d", EXP_W, E + 2);
  end
  if (RANDOM_W < 1) begin : g_bad_random_w
    $fatal(1, "lp_float_add: RANDOM_W = %0d must be at least 1", RANDOM_W);
  end

  localparam int BIAS = 2 ** (E - 1) - 1;
  localparam logic signed [EXP_W-1:0] LOWEST = EXP_W'(1 - BIAS);  // exponent of subnormals
  localparam int C = M + 1 > SIG_W ? M + 1 : SIG_W;               // common significand
  localparam int BELOW = ROUNDING == STOCHASTIC ? RANDOM_W : ROUNDING == TOWARD_ZERO ? 0 : 1;
  localparam int SPARE = C - (M + 1);
  localparam int FRACTION = BELOW + 1 - SPARE > 1 ? BELOW + 1 - SPARE : 1;
  localparam int L = C + FRACTION;      // a significand on its way through the adder
  localparam int T = L + 2;             // with a carry above and the sticky bit below
  localparam int CUT = T - (M + 1);     // bits below the result's last, once normalized
  // Shifts are counted in as many bits as exponents have, and in more where few exponents meet a
  // long significand.
  localparam int SHIFT_W = $clog2(L + 1);
  localparam int PLACES_W = EXP_W > SHIFT_W ? EXP_W : SHIFT_W + 1;

  // --- unpack ---------------------------------------------------------------------------------
  logic s_normal, s_infinite, s_nan;
  logic signed [EXP_W-1:0] s_exponent, y_effective;
  logic [C-1:0] s_significand, y_aligned;
  assign s_normal = s[W-2:M] != 0;
  assign s_infinite = &s[W-2:M] && s[M-1:0] == 0;
  assign s_nan = &s[W-2:M] && s[M-1:0] != 0;
  assign s_exponent = s_normal ? $signed(EXP_W'(s[W-2:M])) - EXP_W'(BIAS) : LOWEST;
  assign s_significand = C'({s_normal, s[M-1:0]}) << (C - M - 1);
  assign y_effective = y_zero ? LOWEST : y_exponent;
  assign y_aligned = y_zero ? '0 : C'(y_significand) << (C - SIG_W);

  // --- align ----------------------------------------------------------------------------------
  logic y_larger, major_sign, subtract, sticky;
  logic signed [EXP_W-1:0] major_exponent;
  logic [PLACES_W-1:0] distance;
  logic [C-1:0] major, minor;
  assign y_larger = y_effective > s_exponent ||
                    (y_effective == s_exponent && y_aligned > s_significand);
  assign major_sign = y_larger ? y_sign : s[W-1];
  assign major_exponent = y_larger ? y_effective : s_exponent;
  assign major = y_larger ? y_aligned : s_significand;
  assign minor = y_larger ? s_significand : y_aligned;
  assign distance =
      PLACES_W'($unsigned(y_larger ? y_effective - s_exponent : s_exponent - y_effective));
  assign subtract = y_sign != s[W-1];

  // A stage for each bit of the distance; sticky collects what falls out.
  logic [L-1:0] minor_kept;
  always_comb begin
    minor_kept = L'(minor) << FRACTION;
    sticky = 1'b0;
    for (int i = 0; i < SHIFT_W; i++) begin
      if (distance[i]) begin
        sticky |= (minor_kept & ((L'(1) << (1 << i)) - 1'b1)) != 0;
        minor_kept >>= 1 << i;
      end
    end
    if (distance[PLACES_W-1:SHIFT_W] != 0) begin
      sticky |= minor_kept != 0;
      minor_kept = '0;
    end
  end

  // --- add ------------------------------------------------------------------------------------
  logic [T-1:0] total, addend;
  assign addend = {1'b0, minor_kept, sticky};
  assign total = {1'b0, L'(major) << FRACTION, 1'b0} + (subtract ? ~addend : addend) + T'(subtract);

  // --- normalize: left, but not beyond the subnormals' exponent -------------------------------
  // A mark where the shift must end makes the leading zeros' count the shift itself.
  localparam int COUNT_W = $clog2(T + 1);  // at most SHIFT_W + 1
  logic [PLACES_W-1:0] room, shift;
  logic [T-1:0] mark;
  logic [2**COUNT_W-1:0] ones;
  assign mark = {1'b1, {(T - 1) {1'b0}}} >> room;
  assign room = PLACES_W'($unsigned(major_exponent + 1'b1 - LOWEST));  // at least 1
  always_comb begin
    ones = {total | mark, {(2 ** COUNT_W - T) {1'b0}}};
    shift = '0;
    for (int i = COUNT_W - 1; i >= 0; i--) begin
      if (ones >> (2 ** COUNT_W - 2 ** i) == 0) begin
        shift[i] = 1'b1;
        ones <<= 2 ** i;
      end
    end
  end
  logic [T-1:0] normalized;
  logic [EXP_W-1:0] field;
  assign normalized = total << shift[COUNT_W-1:0];
  assign field = normalized[T-1] ? EXP_W'(room - shift + 1'b1) : '0;

  // --- round ----------------------------------------------------------------------------------
  logic [CUT-1:0] below;
  logic up;
  assign below = normalized[CUT-1:0];
  if (ROUNDING == STOCHASTIC) begin : g_stochastic
    logic [RANDOM_W-1:0] rest;
    assign {up, rest} = {1'b0, below[CUT-1-:RANDOM_W]} + {1'b0, random};
    wire unused = &{1'b0, rest, below};
  end else if (ROUNDING == TOWARD_ZERO) begin : g_toward_zero
    assign up = 1'b0;
    wire unused = &{1'b0, random, below};
  end else begin : g_nearest
    logic tie_up;
    assign tie_up = ROUNDING == NEAREST_UP ? !major_sign : normalized[CUT];
    assign up = below[CUT-1] && (below[CUT-2:0] != 0 || tie_up);
    wire unused = &{1'b0, random};
  end

  // A carry out of the mantissa goes into the exponent.
  logic [EXP_W+M-1:0] magnitude;
  logic overflow;
  assign magnitude = {field, normalized[CUT+:M]} + (EXP_W + M)'(up);
  assign overflow = magnitude[EXP_W+M-1:M] >= EXP_W'(2 ** E - 1);

  localparam logic [W-2:0] INFINITY = {{E{1'b1}}, {M{1'b0}}};
  localparam logic [W-2:0] LARGEST = INFINITY - 1'b1;
  localparam logic [W-1:0] NAN = {1'b0, INFINITY} | W'(1) << (M - 1);
  always_comb begin
    if (s_nan || y_nan || (s_infinite && y_infinite && subtract)) sum = NAN;
    else if (s_infinite) sum = s;
    else if (y_infinite) sum = {y_sign, INFINITY};
    else if (total == 0) sum = {s[W-1] && y_sign, {(W - 1) {1'b0}}};
    else if (overflow) sum = {major_sign, ROUNDING == TOWARD_ZERO ? LARGEST : INFINITY};
    else sum = {major_sign, magnitude[W-2:0]};
  end
endmodule
