// Runs dot products on the Verilated lp_float_mac. Called from hardware/cosim/float_mac.py by
// ctypes.
#include <cstdint>
#include <random>

#include "Vtop.h"
#include "verilated.h"

namespace {

void Tick(Vtop* top) {
  top->clk = 0;
  top->eval();
  top->clk = 1;
  top->eval();
}

}  // namespace

extern "C" {

// Sums of `terms` products each, one after the other. Returns how many were done.
//   a, b:    [count][terms] operands' codes
//   chunk:   terms in a chunk, 0 for none
//   random:  [count][steps] values of r, or null
//   pause:   probability that no operands are offered in a cycle
//   sums:    [count] the accumulator's codes
//   cycles:  how many it took
int64_t lowprec_dot(uint32_t seed, int64_t count, int64_t terms, const uint8_t* a, const uint8_t* b,
                    int64_t chunk, const int32_t* random, int64_t steps, double pause,
                    uint32_t* sums, int64_t* cycles) {
  VerilatedContext context;
  context.randReset(2);
  context.randSeed(static_cast<int>(seed & 0x7FFFFFFF) + 1);
  Vtop top(&context);
  std::mt19937 generator(seed);
  std::uniform_real_distribution<double> uniform(0, 1);
  top.rst = 1;
  top.in_valid = 0;
  for (int i = 0; i < 3; ++i) Tick(&top);
  top.rst = 0;

  int64_t fed = 0, done = 0, step = 0;
  const int64_t total = count * terms, most = 1000 + 100 * (total + count * steps);
  bool offered = false;
  for (*cycles = 0; done < count && *cycles < most; ++*cycles) {
    offered = fed < total && (offered || pause == 0 || uniform(generator) >= pause);
    top.in_valid = offered;
    if (offered) {
      const int64_t k = fed % terms;
      top.in_a = a[fed];
      top.in_b = b[fed];
      top.in_chunk_last = chunk != 0 && (k + 1) % chunk == 0;
      top.in_last = k + 1 == terms;
    }
    top.random = random != nullptr && step < count * steps ? random[step] : 0;
    top.clk = 0;
    top.eval();
    if (top.out_valid) sums[done++] = static_cast<uint32_t>(top.out_sum);
    step += top.step;
    if (top.in_valid && top.in_ready) {
      ++fed;
      offered = false;
    }
    top.clk = 1;
    top.eval();
  }
  top.final();
  return step == count * steps ? done : -step;
}

}  // extern "C"
