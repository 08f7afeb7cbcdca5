// Random bits for one rounding unit: a Fibonacci LFSR of 33 bits, x^33 + x^20 + 1 (primitive, so of
// period 2^33 - 1). Each `advance` takes WORD steps at once, so that every word has fresh bits.
// As 2^33 - 1 and 24 have no common factor, the words of 24 bits have the full period too.
//
//   step:  state <- {state[31:0], state[32] ^ state[19]}
//   word:  state[WORD-1:0], before the advance
module lp_lfsr #(
    parameter int WORD = 24
) (
    input  logic            clk,
    input  logic            load,     // state <- seed; wins over advance
    input  logic [    32:0] seed,     // any but 0
    input  logic            advance,
    output logic [WORD-1:0] word
);
  if (WORD < 1 || WORD > 33) begin : g_bad_word
    $fatal(1, "lp_lfsr: WORD = %0d must be in 1..33", WORD);
  end

  logic [32:0] state;
  // The state and the WORD bits that follow it: stream[WORD-1-i] is the i-th new bit.
  logic [32+WORD:0] stream;
  assign stream[32+WORD:WORD] = state;
  for (genvar i = WORD - 1; i >= 0; i--) begin : g_step
    assign stream[i] = stream[i+33] ^ stream[i+20];
  end

  assign word = state[WORD-1:0];
  always_ff @(posedge clk) begin
    if (load) state <= seed;
    else if (advance) state <= stream[32:0];
  end
endmodule
