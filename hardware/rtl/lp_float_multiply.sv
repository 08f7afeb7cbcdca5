// The exact product of two small floats (1, E, M), unpacked: sign, exponent and significand, whose
// top bit is set unless the exponent is LOWEST, that of the accumulator's subnormals.
//
//   |product| = significand 2^(exponent - SIG_W + 1)
module lp_float_multiply #(
    parameter int E = 5,
    parameter int M = 2,
    parameter int FN = 0,     // 0: the top exponent holds inf and NaN; 1: all ones is NaN, no inf
    parameter int EXP_W = 9,  // of the signed exponent
    parameter int LOWEST = -30,
    localparam int W = 1 + E + M,
    localparam int RAW_W = 2 * (M + 1),
    // What has to be shifted down to LOWEST keeps all its bits.
    localparam int RAW_LOWEST = 5 - 2 ** E,  // of the raw product's top bit: 2 (1 - bias) + 1
    localparam int SIG_W = RAW_W + (LOWEST > RAW_LOWEST ? LOWEST - RAW_LOWEST : 0)
) (
    input  logic        [    W-1:0] a,
    input  logic        [    W-1:0] b,
    output logic                    sign,
    output logic signed [EXP_W-1:0] exponent,
    output logic        [SIG_W-1:0] significand,
    output logic                    zero,
    output logic                    infinite,
    output logic                    nan
);
  if (E < 2 || M < 1) begin : g_bad_e
    $fatal(1, "lp_float_multiply: E = %0d must be at least 2 and M = %0d at least 1", E, M);
  end
  if (EXP_W < E + 3) begin : g_bad_exp_w
    $fatal(1, "lp_float_multiply: EXP_W = %0d must be at least E + 3 = %0d", EXP_W, E + 3);
  end
  
  logic a_inf, b_inf, a_nan, b_nan, a_zero, b_zero;
  if (FN != 0) begin : g_fn
    assign {a_inf, b_inf} = 2'b00;
    assign a_nan = &a[W-2:0];
    assign b_nan = &b[W-2:0];
  end else begin : g_ieee
    assign a_inf = &a[W-2:M] && a[M-1:0] == 0;
    assign b_inf = &b[W-2:M] && b[M-1:0] == 0;
    assign a_nan = &a[W-2:M] && a[M-1:0] != 0;
    assign b_nan = &b[W-2:M] && b[M-1:0] != 0;
  end
  assign a_zero = a[W-2:0] == 0;
  assign b_zero = b[W-2:0] == 0;

  // A subnormal has the exponent of the lowest normal binade, and no hidden bit.
  logic a_normal, b_normal;
  assign a_normal = a[W-2:M] != 0;
  assign b_normal = b[W-2:M] != 0;
  logic [RAW_W-1:0] raw;
  assign raw = RAW_W'({a_normal, a[M-1:0]}) * RAW_W'({b_normal, b[M-1:0]});

  logic [EXP_W-1:0] zeros;
  always_comb begin
    zeros = '0;
    for (int i = 0; i < RAW_W; i++) if (raw[i]) zeros = EXP_W'(RAW_W - 1 - i);
  end

  logic [E-1:0] a_field, b_field;
  logic signed [EXP_W-1:0] raw_exponent, room;
  assign a_field = a_normal ? a[W-2:M] : E'(1);
  assign b_field = b_normal ? b[W-2:M] : E'(1);
  assign raw_exponent =
      $signed(EXP_W'(a_field)) + $signed(EXP_W'(b_field)) + EXP_W'(RAW_LOWEST - 2);
  assign room = raw_exponent - EXP_W'(LOWEST);
  logic [SIG_W-1:0] wide;
  assign wide = SIG_W'(raw) << (SIG_W - RAW_W);
  if (SIG_W > RAW_W) begin : g_deep
    logic [EXP_W-1:0] left, right;
    assign left = room < 0 ? '0 : $signed(zeros) < room ? zeros : room;
    assign right = room < 0 ? -room : '0;
    assign significand = (wide << left) >> right;
    assign exponent = room < 0 ? EXP_W'(LOWEST) : raw_exponent - $signed(left);
  end else begin : g_shallow
    logic [EXP_W-1:0] left;
    assign left = $signed(zeros) < room ? zeros : room;
    assign significand = wide << left;
    assign exponent = raw_exponent - $signed(left);
  end
  assign sign = a[W-1] ^ b[W-1];
  assign nan = a_nan || b_nan || (a_inf && b_zero) || (b_inf && a_zero);
  assign infinite = (a_inf || b_inf) && !nan;
  assign zero = raw == 0 && !infinite && !nan;
endmodule
